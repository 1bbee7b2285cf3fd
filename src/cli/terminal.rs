//! What a person sees: lines, bars, and signals.

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

/// Seconds as people say them.
pub fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0);
    match s {
        s if s < 1.0 => format!("{:.0} ms", s * 1000.0),
        s if s < 90.0 => format!("{s:.1} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
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
