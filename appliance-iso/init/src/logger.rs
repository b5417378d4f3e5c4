//! The log: lines on the console, dated in seconds since the kernel's start like the kernel's own.

use std::io::Write;

struct Console;

impl log::Log for Console {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        // The libraries' chatter below warnings is not ours to show.
        metadata.level() <= log::Level::Warn || metadata.target().starts_with("init")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            line(&format!("init: {}", record.args()));
        }
    }

    fn flush(&self) {}
}

/// Writes one dated line to the console.
pub(crate) fn line(text: &str) {
    let now = crate::system::uptime();
    // A console that is gone must not stop PID 1.
    let _ = writeln!(std::io::stderr(), "[{:5}.{:03}] {text}", now.as_secs(), now.subsec_millis());
}

/// Makes the log and panics go to the console.
pub(crate) fn install() {
    static CONSOLE: Console = Console;
    if log::set_logger(&CONSOLE).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
    std::panic::set_hook(Box::new(|info| line(&format!("init: panic: {info}"))));
}
