//! Rules that make the lab misbehave on demand.
//!
//! A rule names calls (method and object, both with `*`), how many of them to let pass, for how many it holds, and what
//! happens to them.  Rules are asked at each call, in the order in which they were added; delays add up, and the first
//! other effect wins.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "effect", rename_all = "kebab-case")]
pub(crate) enum Effect {
    /// The call has no effect and ends with this fault.
    Fault {
        /// vim25's name of the fault, `InvalidState`, `NotAuthenticated`, ...
        fault: String,
        /// Whether the call gives a task that fails, instead of failing itself.
        in_task: bool,
    },
    /// The connection is closed before anything is done.
    DropBefore,
    /// The call is done, and the connection is closed instead of an answer.
    DropAfter,
    /// The caller's session ends before the call is looked at.
    ExpireSession,
    /// The VM that is called asks this, and its call waits for the answer if it is a power-on.
    Ask {
        /// What it asks, `msg.id:text` as vSphere has it.
        question: String,
    },
    /// The answer comes later.
    Delay {
        /// At least this many milliseconds.
        milliseconds: u64,
        /// And up to this many more.
        jitter: u64,
    },
    /// The daemon starts anew, and the call is lost with its connection and with every session.
    Restart,
    /// The datastore is full for as long as the rule is there, whatever is called.
    FillDatastore {
        /// Its name.
        datastore: String,
    },
    /// The files of this VM are out of reach for as long as the rule is there, whatever is called.
    LoseFiles {
        /// Its name, or its id.
        vm: String,
    },
    /// The QEMU process of this VM is killed, then the call goes on.
    KillVm {
        /// Its name.
        vm: String,
    },
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rule {
    /// Number of the rule, given by the lab.
    #[serde(default)]
    pub id: u64,
    /// Method name (`PowerOnVM_Task`, or `PUT /folder`), `*` matches any text.
    pub method: String,
    /// Managed object id or name, `*` matches any text.
    pub object: String,
    /// How many matching calls pass first.
    pub skip: u64,
    /// For how many calls it holds; absent means for ever.
    pub times: Option<u64>,
    /// What happens.
    #[serde(flatten)]
    pub effect: Effect,
    /// How many calls have matched so far.
    #[serde(default)]
    pub seen: u64,
}

/// What happens to one call.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Wait this long first.
    pub delay: Duration,
    /// Then this.
    pub effect: Option<Effect>,
}

/// The rules in force.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<(u64, Vec<Rule>)>);

impl Faults {
    fn lock(&self) -> std::sync::MutexGuard<'_, (u64, Vec<Rule>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a rule and gives its number.
    pub(crate) fn add(&self, mut rule: Rule) -> u64 {
        let mut state = self.lock();
        state.0 += 1;
        rule.id = state.0;
        rule.seen = 0;
        state.1.push(rule);
        state.0
    }

    /// The rules and how often each has matched.
    pub(crate) fn list(&self) -> Vec<Rule> {
        self.lock().1.clone()
    }

    /// The datastores that a rule fills.
    pub(crate) fn filled(&self) -> BTreeSet<String> {
        let state = self.lock();
        let names = state.1.iter().filter_map(|r| match &r.effect {
            Effect::FillDatastore { datastore } => Some(datastore.clone()),
            _ => None,
        });
        names.collect()
    }

    /// The VMs whose files a rule puts out of reach.
    pub(crate) fn lost(&self) -> BTreeSet<String> {
        let state = self.lock();
        let names = state.1.iter().filter_map(|r| match &r.effect {
            Effect::LoseFiles { vm } => Some(vm.clone()),
            _ => None,
        });
        names.collect()
    }

    /// Removes one rule, or all.
    pub(crate) fn clear(&self, id: Option<u64>) -> usize {
        let mut state = self.lock();
        let before = state.1.len();
        state.1.retain(|r| id.is_some_and(|id| id != r.id));
        before - state.1.len()
    }

    /// What happens to a call of `method` on the object that goes by any of `names`.
    pub(crate) fn judge(&self, method: &str, names: &[&str]) -> Verdict {
        let mut verdict = Verdict::default();
        for rule in &mut self.lock().1 {
            if !matches(&rule.method, method) || !names.iter().any(|name| matches(&rule.object, name)) {
                continue;
            }
            rule.seen += 1;
            let in_force = rule.seen > rule.skip && rule.times.is_none_or(|times| rule.seen <= rule.skip + times);
            if !in_force {
                continue;
            }
            match &rule.effect {
                Effect::Delay { milliseconds, jitter } => {
                    // Spread without a random source: runs with the same calls take the same time.
                    let spread = if *jitter == 0 { 0 } else { rule.seen.wrapping_mul(7919) % (jitter + 1) };
                    verdict.delay += Duration::from_millis(milliseconds + spread);
                }
                // A state, not an answer to a call.
                Effect::FillDatastore { .. } | Effect::LoseFiles { .. } => {}
                other if verdict.effect.is_none() => verdict.effect = Some(other.clone()),
                _ => {}
            }
        }
        verdict
    }
}

/// The rules of a preset: `vcenter` takes as long as a vCenter does.
pub(crate) fn preset(name: &str) -> Option<Vec<Rule>> {
    let delay = |method: &str, milliseconds| Rule {
        id: 0,
        method: method.into(),
        object: "*".into(),
        skip: 0,
        times: None,
        effect: Effect::Delay { milliseconds, jitter: milliseconds / 10 },
        seen: 0,
    };
    (name == "vcenter").then(|| {
        vec![
            delay("ReconfigVM_Task:attach", 1200),
            delay("ReconfigVM_Task:detach", 600),
            delay("PowerOnVM_Task", 1000),
            delay("PowerOnVApp_Task", 1000),
        ]
    })
}

/// Whether `text` fits `pattern`, in which `*` stands for any text.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(method: &str, skip: u64, times: Option<u64>, effect: Effect) -> Rule {
        Rule { id: 0, method: method.into(), object: "*".into(), skip, times, effect, seen: 0 }
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("*", "anything", true),
            ("vm-7", "vm-7", true),
            ("vm-7", "vm-70", false),
            ("vm-*", "vm-70", true),
            ("*_Task", "PowerOnVM_Task", true),
            ("P*VM*k", "PowerOnVM_Task", true),
            ("P*VM*x", "PowerOnVM_Task", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn the_nth_call_fails_and_the_others_do_not() {
        let faults = Faults::default();
        let fault = Effect::Fault { fault: "InvalidState".into(), in_task: false };
        faults.add(rule("PowerOnVM_Task", 1, Some(1), fault.clone()));
        let effects: Vec<_> = (0..3).map(|_| faults.judge("PowerOnVM_Task", &["vm-1"]).effect).collect();
        assert_eq!(effects, [None, Some(fault), None]);
        assert_eq!(faults.judge("PowerOffVM_Task", &["vm-1"]), Verdict::default());
    }

    #[test]
    fn delays_add_up() {
        let faults = Faults::default();
        faults.add(rule("*", 0, None, Effect::Delay { milliseconds: 10, jitter: 0 }));
        faults.add(rule("Login", 0, None, Effect::Delay { milliseconds: 5, jitter: 0 }));
        assert_eq!(faults.judge("Login", &["SessionManager"]).delay, Duration::from_millis(15));
        assert_eq!(faults.clear(None), 2);
    }
}
