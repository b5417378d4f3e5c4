//! [`Printer`]: owns the terminal.  stdout is data, stderr is talk.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this module is the printer")]

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::problem::Problem;

/// What stdout carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON document.
    Json,
}

/// Owns the terminal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    output: Output,
    debug: bool,
    live: bool,
    colour: bool,
}

/// Something that takes time, shown while it does.
pub(crate) struct Activity {
    bar: Option<ProgressBar>,
    what: String,
    printer: Printer,
}

impl Printer {
    pub(crate) fn new(output: Output, debug: bool) -> Self {
        let live = std::io::stderr().is_terminal();
        let colour = live && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self { output, debug, live, colour }
    }

    /// A line of talk.
    pub(crate) fn info(&self, text: impl std::fmt::Display) {
        eprintln!("{text}");
    }

    /// A line of talk for whoever asked for more.
    pub(crate) fn debug(&self, text: impl std::fmt::Display) {
        if self.debug {
            eprintln!("{text}");
        }
    }

    pub(crate) fn warn(&self, text: impl std::fmt::Display) {
        eprintln!("{} {text}", self.paint("33", "warning:"));
    }

    /// Lines of data for people; nothing when JSON was asked for.
    pub(crate) fn data(&self, text: impl std::fmt::Display) {
        if self.output == Output::Text {
            println!("{text}");
        }
    }

    /// The JSON document, when that was asked for.
    pub(crate) fn json(&self, value: &impl serde::Serialize) {
        if self.output == Output::Json {
            match serde_json::to_string_pretty(value) {
                Ok(text) => println!("{text}"),
                Err(e) => eprintln!("cannot write the result as JSON: {e}"),
            }
        }
    }

    /// Problems, each with its cause and remedy, then one verdict line.
    pub(crate) fn problems(&self, command: &str, problems: &[Problem]) {
        for p in problems {
            eprintln!("{} {}", self.paint("31", "error:"), p.what);
            for why in &p.why {
                eprintln!("  because: {why}");
            }
            for remedy in &p.remedy {
                eprintln!("  {remedy}");
            }
        }
        let exit = problems.iter().map(|p| p.exit as u8).next().unwrap_or(0);
        match problems {
            [] | [_] => eprintln!("vic-machine {command} failed (exit code {exit})"),
            many => eprintln!("vic-machine {command} failed: {} problems (exit code {exit})", many.len()),
        }
        self.json(&serde_json::json!({
            "ok": false,
            "exit_code": exit,
            "errors": problems.iter().map(|p| serde_json::json!({
                "what": p.what, "why": p.why, "remedy": p.remedy, "exit_code": p.exit as u8,
            })).collect::<Vec<_>>(),
        }));
    }

    /// Shows an upload of `bytes`.
    pub(crate) fn upload(&self, what: &str, bytes: u64) -> Activity {
        let style = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}";
        self.activity(what, ProgressBar::new(bytes), style)
    }

    /// Shows a step or a wait of unknown length.
    pub(crate) fn wait(&self, what: &str) -> Activity {
        let activity = self.activity(what, ProgressBar::new_spinner(), "{spinner} {msg} {elapsed}");
        if let Some(bar) = &activity.bar {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        activity
    }

    fn activity(&self, what: &str, bar: ProgressBar, template: &str) -> Activity {
        let bar = self.live.then(|| {
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_message(what.to_owned());
            bar
        });
        if bar.is_none() {
            eprintln!("{what} ...");
        }
        Activity { bar, what: what.to_owned(), printer: *self }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

impl Activity {
    /// A handle that reports bytes moved from anywhere.
    pub(crate) fn position(&self) -> impl Fn(u64) + Send + Sync + Clone + 'static {
        let bar = self.bar.clone();
        move |n| {
            if let Some(bar) = &bar {
                bar.set_position(n);
            }
        }
    }

    /// Tells what the activity is at now.
    pub(crate) fn note(&mut self, now: &str) {
        let text = format!("{}: {now}", self.what);
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None => eprintln!("{text}"),
        }
    }

    /// Ends it well.
    pub(crate) fn done(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            eprintln!("{} {}", self.printer.paint("32", "done:"), self.what);
        }
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
