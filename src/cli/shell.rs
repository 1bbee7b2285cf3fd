//! What a shell and a reader want of the command line itself: completions, manual pages, all options.

use super::terminal::say;
use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_complete::{Shell, generate};
use gmmk::report::files::replace_with_bytes;
use std::path::{Path, PathBuf};

/// Columns of the help in docs/options.md.
const WIDTH: usize = 100;

/// `gmmk completions`
#[derive(Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// `gmmk man`
#[derive(Args)]
pub struct ManArgs {
    /// Write a page for every command into this folder, not gmmk's own to standard output
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Prints a shell's completion script.
pub fn completions(args: &CompletionsArgs, mut command: Command) -> Result<()> {
    let mut script = Vec::new();
    generate(args.shell, &mut command, "gmmk", &mut script);
    say(String::from_utf8(script)?.trim_end());
    Ok(())
}

/// Prints or writes manual pages.
pub fn man(args: &ManArgs, command: Command) -> Result<()> {
    let Some(folder) = &args.out else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        say(String::from_utf8(page)?.trim_end());
        return Ok(());
    };
    let shown = folder.display();
    let failed = || format!("--out {shown}: the pages cannot be written there");
    std::fs::create_dir_all(folder).with_context(failed)?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    write_pages(command, folder).with_context(failed)?;
    say(&format!(
        "wrote the manual pages into {shown}; read one: man {shown}/gmmk.1"
    ));
    Ok(())
}

/// Writes the page of a command and those of its subcommands, each whole or not at all.
fn write_pages(command: Command, folder: &Path) -> Result<()> {
    for inner in command.get_subcommands().filter(|s| !s.is_hide_set()) {
        write_pages(inner.clone(), folder)?;
    }
    let man = clap_mangen::Man::new(command);
    let mut page = Vec::new();
    man.render(&mut page)?;
    Ok(replace_with_bytes(&folder.join(man.get_filename()), &page)?)
}

/// Prints the help of every command as Markdown.
pub fn options(command: Command) {
    let mut command = command.term_width(WIDTH);
    command.build();
    let mut text = String::from(
        "# Options\n\nEvery command and what it takes. Made by `gmmk options > docs/options.md`.\n",
    );
    describe(&mut command, &mut text);
    say(text.trim_end());
}

fn describe(command: &mut Command, text: &mut String) {
    let name = command
        .get_bin_name()
        .unwrap_or(command.get_name())
        .to_owned();
    let help = command.render_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    *text += &format!(
        "\n## {name}\n\n```text\n{}\n```\n",
        help.join("\n").trim_end()
    );
    for inner in command.get_subcommands_mut() {
        if !inner.is_hide_set() {
            describe(inner, text);
        }
    }
}
