//! `gmmk import`.

use super::terminal::{counted, say, warn};
use anyhow::{Result, bail};
use clap::Args;
use gmmk::interchange;
use std::path::PathBuf;

/// Options of `gmmk import`.
#[derive(Args)]
pub struct ImportArgs {
    /// A folder that `gmmk export --diffusers` wrote, also after training with diffusers
    #[arg(long, value_name = "DIR")]
    diffusers: PathBuf,
    /// The checkpoint to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Which of several saved variants, such as fp16 [default: the weights without one, or the only ones]
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

/// Runs `gmmk import`.
pub fn run(args: ImportArgs) -> Result<()> {
    super::check_file(&args.out, "a checkpoint's file name", "model.safetensors")?;
    let shown = args.out.display();
    if args.out.exists() && !args.force {
        bail!(
            "--out {shown}: the file is there already; choose another, or replace it with --force"
        );
    }
    let imported = interchange::import(&args.diffusers, args.variant.as_deref(), &args.out)?;
    if let Some(note) = &imported.note {
        warn(&format!("note: {note}"));
    }
    let variant = imported.variant.map(|name| format!(", variant {name}"));
    say(&format!(
        "wrote {shown}: {} numbers in {} (from {}{})",
        imported.parameters,
        counted(imported.tensors, "tensor"),
        imported.formats.join(", "),
        variant.unwrap_or_default()
    ));
    Ok(())
}
