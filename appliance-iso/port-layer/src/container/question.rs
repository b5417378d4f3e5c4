//! [`Question`]: what a VM waits for an answer to.  Nothing happens to it meanwhile: a power-on does not end, a guest stands still.

use vim25::types::VirtualMachineQuestionInfo;

/// Labels of what ends a VM, or the operation that it asks about, whatever the question is.
const ENDING: [&str; 3] = ["poweroff", "cancel", "abort"];

/// What a VM asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// vSphere's id of it.
    pub(crate) id: String,
    /// In one line: `msg.uuid.altered:This virtual machine might have been moved or copied. ...`
    pub text: String,
    /// The key of the choice that ends the VM, or else of the one that vSphere would take.
    pub(crate) ending: String,
}

impl Question {
    /// Reads a VM's `runtime.question`.
    pub(crate) fn of(info: &VirtualMachineQuestionInfo) -> Self {
        let choices = &info.choice.choice_info;
        // By its label, or by its key where the label is in the language of the host: "button.abort".
        let is_word = |text: &str, word: &str| plain(text) == word || plain(text).ends_with(&format!(".{word}"));
        let ending =
            ENDING.iter().find_map(|word| choices.iter().find(|c| is_word(&c.label, word) || is_word(&c.key, word)));
        let default = info.choice.default_index.and_then(|at| choices.get(usize::try_from(at).ok()?));
        let ending = ending.or(default).or(choices.first()).map(|choice| choice.key.clone()).unwrap_or_default();
        let text = info.text.split_whitespace().collect::<Vec<_>>().join(" ");
        Self { id: info.id.clone(), text, ending }
    }
}

/// A label without its spaces and the mark of its shortcut key: "_Cancel", "&Power Off".
fn plain(label: &str) -> String {
    label.replace(['_', '&', ' '], "").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use vim25::types::{ChoiceOption, Description, ElementDescription};

    use super::*;

    #[test]
    fn the_answer_is_what_ends_the_vm_or_else_the_default() {
        let ending = |choices: &[(&str, &str)], default_index| {
            let choice = |(key, label): &(&str, &str)| ElementDescription {
                base: Description { label: (*label).into(), summary: String::new() },
                key: (*key).into(),
            };
            let choice_info = choices.iter().map(|one| choice(one).into()).collect();
            let choice = ChoiceOption { choice_info, default_index, ..Default::default() };
            Question::of(&VirtualMachineQuestionInfo { choice, ..Default::default() }).ending
        };
        // A disk without room; a VM that was moved; an older host's labels.
        assert_eq!(ending(&[("0", "Retry"), ("1", "Cancel")], Some(0)), "1");
        assert_eq!(ending(&[("0", "Cancel"), ("1", "I Moved It"), ("2", "I Copied It")], Some(2)), "0");
        assert_eq!(ending(&[("0", "_Retry"), ("1", "_Abort")], None), "1");
        assert_eq!(ending(&[("0", "Cancel"), ("1", "&Power Off")], None), "1");
        assert_eq!(ending(&[("button.retry", "Erneut"), ("button.abort", "Abbrechen")], Some(0)), "button.abort");
        assert_eq!(
            ending(&[("button.continue", "Weiter"), ("button.powerOff", "Ausschalten")], Some(0)),
            "button.powerOff"
        );
        // "Disconnect anyway and override the lock?"
        assert_eq!(ending(&[("0", "Yes"), ("1", "No")], Some(1)), "1");
        assert_eq!(ending(&[("0", "OK")], None), "0");
        assert_eq!(ending(&[], Some(3)), "");
    }
}
