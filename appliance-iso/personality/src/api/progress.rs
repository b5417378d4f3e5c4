//! A pull as Docker's clients show it: one JSON object a line.

use image_store::{PullError, Pulled, Step, Told};
use serde_json::{Value, json};

/// The line that a step is.
pub(super) fn step(step: &Step) -> String {
    line(&match step {
        Step::Begun { tag, repository } => json!({"status": format!("Pulling from {repository}"), "id": tag}),
        Step::Layer { id, told } => layer(id, *told),
        Step::Digest(digest) => json!({"status": format!("Digest: {digest}")}),
    })
}

/// The last line; a failure stands in the stream, for the answer has begun.
pub(super) fn end(image: &str, outcome: Result<Pulled, PullError>) -> String {
    line(&match outcome {
        Ok(Pulled { new: true, .. }) => json!({"status": format!("Status: Downloaded newer image for {image}")}),
        Ok(_) => json!({"status": format!("Status: Image is up to date for {image}")}),
        Err(error) => {
            let text = error.to_string();
            json!({"errorDetail": {"message": text}, "error": text})
        }
    })
}

fn layer(id: &str, told: Told) -> Value {
    let plain = |status: &str| json!({"status": status, "progressDetail": {}, "id": id});
    let moving = |status: &str, current: u64, total: u64| {
        let detail = json!({"current": current, "total": total});
        json!({"status": status, "progressDetail": detail, "progress": bar(current, total), "id": id})
    };
    match told {
        Told::Wanted => plain("Pulling fs layer"),
        Told::There => plain("Already exists"),
        Told::Downloading(current, total) => moving("Downloading", current, total),
        Told::Downloaded => plain("Download complete"),
        Told::Extracting(current, total) => moving("Extracting", current, total),
        Told::Complete => plain("Pull complete"),
    }
}

/// `[====>      ]  1.5MB/3MB`, for clients that draw none of their own.
fn bar(current: u64, total: u64) -> String {
    let done = usize::try_from(current.min(total) * 50 / total.max(1)).unwrap_or(0);
    let arrow = if done == 50 { "=".repeat(50) } else { format!("{}>{}", "=".repeat(done), " ".repeat(49 - done)) };
    format!("[{arrow}] {:>8}/{}", human(current), human(total))
}

/// A size as Docker says it to people: four digits, in powers of 1000.
fn human(bytes: u64) -> String {
    let mut unit = 0;
    let (mut whole, mut rest) = (bytes, 0);
    while whole >= 1000 && unit < 6 {
        rest = whole % 1000;
        whole /= 1000;
        unit += 1;
    }
    let unit = ["B", "kB", "MB", "GB", "TB", "PB", "EB"][unit];
    let digits = 4_usize.saturating_sub(whole.to_string().len());
    let fraction: String = format!("{rest:03}").chars().take(digits).collect();
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { format!("{whole}{unit}") } else { format!("{whole}.{fraction}{unit}") }
}

fn line(value: &Value) -> String {
    format!("{value}\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_said_as_docker_says_them() {
        for (bytes, said) in
            [(0, "0B"), (999, "999B"), (1500, "1.5kB"), (2_220_000, "2.22MB"), (123_456_789, "123.4MB")]
        {
            assert_eq!(human(bytes), said);
        }
    }

    #[test]
    fn a_bar_is_fifty_wide_whatever_the_numbers() {
        for (current, total) in [(0, 0), (0, 10), (5, 10), (10, 10), (20, 10)] {
            let bar = bar(current, total);
            assert_eq!(bar.find(']'), Some(51), "{bar}");
        }
        let line: Value =
            serde_json::from_str(&step(&Step::Layer { id: "ab".into(), told: Told::Downloading(1, 2) })).unwrap();
        assert_eq!(line["progressDetail"], json!({"current": 1, "total": 2}));
        assert_eq!(line["status"], "Downloading");
    }
}
