//! Sparse files as GNU tar writes them into archives in PAX format (GNU tar's manual, "Storing Sparse Files", version 1.0).
//!
//! The entry's own name and size are not the file's: those are in the PAX header.  What is in the entry begins with a map of
//! the places that hold anything, in decimal lines filled up to a block; then comes what they hold, one after the other.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

const BLOCK: usize = 512;
/// Places that a map may tell of; they are kept until the file is written.
const PLACES: u64 = 200_000;

/// A sparse file.
#[derive(Debug)]
pub(crate) struct Sparse {
    /// Its path.
    pub(crate) name: PathBuf,
    /// Its length, holes included.
    pub(crate) size: u64,
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("sparse file: {reason}"))
}

impl Sparse {
    /// What the entry's PAX header says of it, if it is one.
    ///
    /// # Errors
    /// It is one of another version: what is in the entry would be mistaken for the file.
    pub(crate) fn of<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Option<Self>> {
        let Some(extensions) = entry.pax_extensions()? else { return Ok(None) };
        let (mut version, mut name, mut size, mut any) = ([None, None], None, None, false);
        for extension in extensions {
            let extension = extension?;
            let Some(key) = extension.key_bytes().strip_prefix(b"GNU.sparse.") else { continue };
            let value = extension.value_bytes();
            any = true;
            match key {
                b"major" => version[0] = Some(value.to_vec()),
                b"minor" => version[1] = Some(value.to_vec()),
                b"name" => name = Some(PathBuf::from(OsStr::from_bytes(value))),
                b"realsize" => size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()),
                _ => {}
            }
        }
        if !any {
            return Ok(None);
        }
        if version != [Some(b"1".to_vec()), Some(b"0".to_vec())] {
            return Err(invalid("only version 1.0 of the PAX format is known"));
        }
        let (Some(name), Some(size)) = (name, size) else { return Err(invalid("it has no name or no size")) };
        Ok(Some(Self { name, size }))
    }

    /// Writes the file from what is in the entry.
    pub(crate) fn copy(&self, from: &mut impl Read, to: &mut File) -> io::Result<()> {
        let mut end = 0;
        for (offset, length) in map(from)? {
            let next = offset.checked_add(length).filter(|next| offset >= end && *next <= self.size);
            end = next.ok_or_else(|| invalid("its map leaves the file, or goes back in it"))?;
            to.seek(SeekFrom::Start(offset))?;
            if io::copy(&mut from.take(length), to)? != length {
                return Err(invalid("it ends before its map does"));
            }
        }
        to.set_len(self.size)
    }
}

/// The places that hold anything: offset and length.
fn map(from: &mut impl Read) -> io::Result<Vec<(u64, u64)>> {
    let mut lines = Lines { from, block: [0; BLOCK], at: BLOCK };
    let count = lines.number()?;
    if count > PLACES {
        return Err(invalid("it has too many holes"));
    }
    (0..count).map(|_| Ok((lines.number()?, lines.number()?))).collect()
}

/// Numbers in decimal lines, read by whole blocks.
struct Lines<'a, R> {
    from: &'a mut R,
    block: [u8; BLOCK],
    at: usize,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> io::Result<u64> {
        let mut number = None;
        loop {
            if self.at == BLOCK {
                self.from.read_exact(&mut self.block)?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            let digit = match byte {
                b'0'..=b'9' => u64::from(byte - b'0'),
                b'\n' => return number.ok_or_else(|| invalid("its map has an empty line")),
                _ => return Err(invalid("its map is no list of numbers")),
            };
            let more = number.unwrap_or(0_u64).checked_mul(10).and_then(|n| n.checked_add(digit));
            number = Some(more.ok_or_else(|| invalid("its map has a number without end"))?);
        }
    }
}
