//! [`Program`]: what a process runs, looked for as Docker's runtime does.  Not with execvp(3): that gives a script without `#!` to
//! a shell, which Docker does not.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString, NulError},
    io,
    ptr::null,
};

/// The exit code of a process whose program the kernel refuses.
const REFUSED: i32 = 1;

/// A program with its arguments and environment, prepared: between fork and exec there are system calls only.
#[derive(Debug)]
pub(crate) struct Program {
    /// What it may be, in the order of trying.
    files: Vec<CString>,
    argv: Texts,
    envp: Texts,
}

/// A list of texts as execve(2) takes it.
#[derive(Debug)]
struct Texts {
    /// To each of `texts`, and the null at the end.
    pointers: Vec<*const libc::c_char>,
    /// Kept, for they are pointed to.
    _texts: Vec<CString>,
}

// SAFETY: the pointers lead to texts that are its own, and that nobody changes.
unsafe impl Send for Texts {}
// SAFETY: as above.
unsafe impl Sync for Texts {}

impl Texts {
    fn new<T: Into<Vec<u8>>>(texts: impl IntoIterator<Item = T>) -> Result<Self, NulError> {
        let texts = texts.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
        let pointers = texts.iter().map(|text| text.as_ptr()).chain([null()]).collect();
        Ok(Self { pointers, _texts: texts })
    }
}

impl Program {
    /// `args` to be run in the environment `variables`, of which `PATH` says where the program is looked for.
    ///
    /// # Errors
    /// A text holds a NUL.
    pub(crate) fn prepare(args: &[String], variables: &BTreeMap<String, String>) -> Result<Self, NulError> {
        let name = args.first().map_or("", String::as_str);
        // Without it nowhere: not even in the working directory, which is what an empty folder stands for.
        let path = variables.get("PATH").filter(|path| !path.is_empty());
        let folders = path.iter().flat_map(|path| path.split(':'));
        let files: Vec<String> = if name.is_empty() || name.contains('/') {
            vec![name.to_owned()]
        } else {
            folders.map(|folder| format!("{}/{name}", if folder.is_empty() { "." } else { folder })).collect()
        };
        Ok(Self {
            files: files.into_iter().map(CString::new).collect::<Result<_, _>>()?,
            argv: Texts::new(args.iter().map(String::as_str))?,
            envp: Texts::new(variables.iter().map(|(name, value)| format!("{name}={value}")))?,
        })
    }

    /// Becomes the program; returns why there is none.  Of a file that is there and that the kernel does not run, the process itself
    /// is told, as with Docker, and ends.
    pub(crate) fn run(&self) -> io::Error {
        let mut why = libc::ENOENT;
        for file in &self.files {
            // SAFETY: all of it is prepared and outlives the call.
            unsafe { libc::execve(file.as_ptr(), self.argv.pointers.as_ptr(), self.envp.pointers.as_ptr()) };
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::ENOEXEC) => say(file, c": exec format error\n"),
                // SAFETY: the path is prepared.
                Some(libc::ENOENT) if unsafe { libc::access(file.as_ptr(), libc::F_OK) } == 0 => {
                    // It is its interpreter that is not there.
                    say(file, c": no such file or directory\n");
                }
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                Some(libc::EACCES) => why = libc::EACCES,
                _ => return error,
            }
        }
        io::Error::from_raw_os_error(why)
    }
}

/// Writes what the kernel says of `file` where the process's errors go, and ends the process.
fn say(file: &CStr, words: &CStr) -> ! {
    let parts = [c"exec ", file, words]
        .map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.to_bytes().len() });
    // SAFETY: the parts are texts of that length, of which the kernel reads; nothing of this process is needed afterwards.
    unsafe {
        libc::writev(libc::STDERR_FILENO, parts.as_ptr(), 3);
        libc::_exit(REFUSED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_looked_for_where_path_says() {
        let files = |name: &str, path: &str| {
            let program = Program::prepare(&[name.to_owned()], &[("PATH".to_owned(), path.to_owned())].into()).unwrap();
            program.files.into_iter().map(|file| file.into_string().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(files("ls", "/bin:/usr/bin"), ["/bin/ls", "/usr/bin/ls"]);
        assert_eq!(files("ls", "/bin:"), ["/bin/ls", "./ls"]);
        assert_eq!(files("ls", ""), [""; 0]);
        assert_eq!(files("./ls", "/bin"), ["./ls"]);
        assert_eq!(files("", "/bin"), [""], "no folder is a program");
        assert!(Program::prepare(&["a\0b".to_owned()], &BTreeMap::new()).is_err());
    }
}
