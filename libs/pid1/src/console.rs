//! The log: lines on the console, dated in seconds since the kernel's start like the kernel's own.

use std::{io::Write, sync::OnceLock};

/// Who speaks: the crate of PID 1.
static NAME: OnceLock<&str> = OnceLock::new();

fn name() -> &'static str {
    NAME.get().copied().unwrap_or("pid1")
}

struct Console;

impl log::Log for Console {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        // The libraries' chatter below warnings is not ours to show.
        metadata.level() <= log::Level::Warn || [name(), "pid1"].iter().any(|ours| metadata.target().starts_with(ours))
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            line(&format!("{}: {}", name(), record.args()));
        }
    }

    fn flush(&self) {}
}

/// Writes one dated line to the console.
pub fn line(text: &str) {
    let now = crate::uptime();
    // A console that is gone must not stop PID 1.
    let _ = writeln!(std::io::stderr(), "[{:5}.{:03}] {text}", now.as_secs(), now.subsec_millis());
}

/// Makes the log of the crate `crate_name`, and panics, go to the console.
pub fn install(crate_name: &'static str) {
    let _ = NAME.set(crate_name);
    static CONSOLE: Console = Console;
    if log::set_logger(&CONSOLE).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
    std::panic::set_hook(Box::new(|info| line(&format!("{}: panic: {info}", name()))));
}
