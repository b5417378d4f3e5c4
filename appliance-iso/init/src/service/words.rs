//! The last lines that a service wrote.

use std::collections::VecDeque;

/// How many lines are kept, and how long each may be.
const LINES: usize = 20;
const LINE_LENGTH: usize = 400;

/// The last lines of one service's output.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastWords(VecDeque<String>);

impl LastWords {
    /// Takes one line.
    pub(crate) fn push(&mut self, line: &str) {
        if self.0.len() == LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.chars().filter(|c| !c.is_control()).take(LINE_LENGTH).collect());
    }

    /// The lines as one text.
    pub(crate) fn text(&self) -> String {
        self.0.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_stay_short_and_end_with_the_last_line(lines in proptest::collection::vec(".*", 1..60)) {
            let mut words = LastWords::default();
            for line in &lines {
                words.push(line);
            }
            prop_assert!(words.0.len() <= LINES);
            prop_assert!(words.text().chars().count() <= LINES * (LINE_LENGTH + 1));
        }
    }
}
