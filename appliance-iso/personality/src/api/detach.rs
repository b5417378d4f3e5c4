//! The keys with which a client lets go of a terminal: ctrl-p, ctrl-q unless it says otherwise.

use crate::error::ApiError;

/// A sequence of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys(Vec<u8>);

impl Keys {
    /// Reads Docker's notation: `ctrl-a`, a letter, several of them with commas; empty means Docker's own.
    pub(super) fn read(text: &str) -> Result<Self, ApiError> {
        if text.is_empty() {
            return Ok(Self(vec![0x10, 0x11]));
        }
        let invalid = || ApiError::Bad(format!("Invalid detach keys ({text}) provided"));
        let mut keys = Vec::new();
        for key in text.split(',') {
            let byte = match (key.as_bytes(), key.strip_prefix("ctrl-").map(str::as_bytes)) {
                (_, Some([letter @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')])) => letter & 0x1f,
                ([one], _) => *one,
                ([], _) | (_, _) => return Err(invalid()),
            };
            keys.push(byte);
        }
        Ok(Self(keys))
    }
}

/// Looks for the keys in what is typed.
#[derive(Debug)]
pub(super) struct Detach {
    keys: Keys,
    /// So many of them were typed last, and are held back.
    typed: usize,
}

impl Detach {
    pub(super) fn new(keys: Keys) -> Self {
        Self { keys, typed: 0 }
    }

    /// What of `bytes`, and of what was held back, is for the process; and whether the keys were typed.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let keys = &self.keys.0;
        let mut out = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if keys.get(self.typed) == Some(byte) {
                self.typed += 1;
                if self.typed == keys.len() {
                    self.typed = 0;
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(&keys[..self.typed]);
            self.typed = 0;
            if keys.first() == Some(byte) {
                self.typed = 1;
            } else {
                out.push(*byte);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_read_as_docker_writes_them() {
        for (text, bytes) in
            [("", &[0x10, 0x11][..]), ("ctrl-a,d", &[1, b'd']), ("ctrl-@", &[0]), ("ctrl-\\,x,y", &[0x1c, b'x', b'y'])]
        {
            assert_eq!(Keys::read(text).unwrap().0, bytes, "{text:?}");
        }
        for text in ["ctrl-", "ctrl-1", "ab", ",", "a,"] {
            assert!(Keys::read(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_sequence_may_be_typed_in_pieces_and_a_false_start_is_passed_on() {
        let mut detach = Detach::new(Keys::read("").unwrap());
        assert_eq!(detach.pass(b"ls\x10"), (b"ls".to_vec(), false));
        assert_eq!(detach.pass(b"x"), (b"\x10x".to_vec(), false));
        assert_eq!(detach.pass(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(detach.pass(b"\x11rest"), (Vec::new(), true));
    }

    proptest! {
        #[test]
        fn without_the_keys_nothing_is_lost_or_added(
            bytes in proptest::collection::vec(prop_oneof![Just(0x10_u8), Just(b'a')], 0..40), cut in 1_usize..5,
        ) {
            let mut detach = Detach::new(Keys::read("").unwrap());
            let mut out = Vec::new();
            for piece in bytes.chunks(cut) {
                let (rest, detached) = detach.pass(piece);
                prop_assert!(!detached);
                out.extend(rest);
            }
            let held = bytes.len() - out.len();
            prop_assert!(held <= 1 && bytes.starts_with(&out) && bytes[out.len()..].iter().all(|b| *b == 0x10));
        }
    }
}
