//! What a person sees: lines, bars, and signals.

pub use gmmk::report::files::human_duration as duration;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Prints a line to standard output. A reader that went away ends the program quietly.
pub fn say(text: &str) {
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            warn(&format!("error: cannot write to standard output: {error}"));
            std::process::exit(1);
        }
    }
}

/// Prints a line to standard error.
pub fn warn(text: &str) {
    // Nobody is left to tell if this fails.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// `1 picture`, `3 pictures`.
pub fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Rows as aligned columns, the first row their headings.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        let cells = rows.iter().filter_map(|row| row.get(c));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let cells: String = cells.map(|(cell, &w)| format!("{cell:<w$}  ")).collect();
        cells.trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Progress of long work: a bar on a terminal, a line now and then elsewhere.
pub struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    every: Duration,
    last: Instant,
}

impl Progress {
    /// Progress of `what`, which has `total` parts; lines come `every` so often.
    pub fn new(what: &'static str, total: u64, every: Duration) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar =
                ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(8));
            let template = "{prefix} {wide_bar} {pos}/{len} {msg} {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_prefix(what);
            bar
        });
        Self {
            bar,
            what,
            every,
            last: Instant::now(),
        }
    }

    /// `done` of `total` parts are done; `detail` is shown beside.
    pub fn update(&mut self, done: u64, total: u64, detail: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(detail());
        } else if self.last.elapsed() >= self.every {
            self.last = Instant::now();
            warn(&format!("{} {done}/{total} {}", self.what, detail()));
        }
    }

    /// Prints a line without disturbing the bar.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| warn(text)),
            None => warn(text),
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A flag that the first Ctrl-C (or SIGTERM) sets, saying `what` happens now; the second ends the
/// program at once.
pub fn stop_flag(what: &'static str) -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = flag.clone();
    let installed = ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        warn(&format!("\n{what}; once more to quit at once"));
    });
    if let Err(error) = installed {
        warn(&format!(
            "note: Ctrl-C will end the program at once ({error})"
        ));
    }
    flag
}
