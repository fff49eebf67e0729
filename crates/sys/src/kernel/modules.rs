//! Loading a kernel module from a file.

use std::ffi::CString;
use std::fs::File;
use std::io;

use rustix::io::Errno;

/// What became of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// It was loaded.
    Now,
    /// The kernel has it already, loaded or built in.
    Before,
}

/// Loads the module in `file`, an uncompressed `.ko`, with `options` such as `timeout=30 nowayout=0`.
///
/// What it depends on has to be there: without that the answer is "no such file or directory" (an unknown symbol).
/// The file must not be open for writing anywhere.
pub fn load_module(file: &File, options: &str) -> io::Result<Loaded> {
    let options = CString::new(options)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a module's options cannot hold a zero byte"))?;
    match rustix::system::finit_module(file, &options, 0) {
        Ok(()) => Ok(Loaded::Now),
        Err(Errno::EXIST) => Ok(Loaded::Before),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_module_is_refused() {
        let file = tempfile::tempfile().expect("a file");
        load_module(&file, "").expect_err("an empty file is no module");
    }

    #[test]
    fn a_zero_byte_in_the_options_is_refused() {
        let file = tempfile::tempfile().expect("a file");
        let error = load_module(&file, "a=1\0b=2").expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
