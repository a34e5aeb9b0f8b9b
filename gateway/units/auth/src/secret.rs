//! Reading a secret from where the operator keeps it.

use std::io::Read as _;
use std::path::Path;

use sluice_vocabulary::Faults;
use sluice_vocabulary::secret::{Secret, SecretSource};

/// The longest secret taken.
const MAX_SECRET: u64 = 4096;

/// Reports what is wrong with `source`, which stands at `at`, without opening it.
pub(crate) fn validate(source: &SecretSource, at: &sluice_vocabulary::Path, faults: &mut Faults) {
    match source {
        SecretSource::File(file) if file.as_os_str().is_empty() => {
            faults.error(&at.key("file"), "a file name cannot be empty");
        }
        SecretSource::Env(name) if name.is_empty() || name.contains(['=', '\0']) => {
            faults.error(&at.key("env"), "not the name of an environment variable");
        }
        SecretSource::File(_) | SecretSource::Env(_) => {}
    }
}

/// Where a secret is kept, as messages call it.
pub(crate) fn place(source: &SecretSource, base_dir: &Path) -> String {
    match source {
        SecretSource::File(file) => base_dir.join(file).display().to_string(),
        SecretSource::Env(name) => format!("the environment variable {name}"),
    }
}

/// Reads the secret that `source` names, relative to `base_dir`. The error is fit for the operator and holds nothing of
/// the secret.
pub(crate) fn read(source: &SecretSource, base_dir: &Path) -> Result<Secret, String> {
    match source {
        SecretSource::File(file) => {
            let path = base_dir.join(file);
            let mut bytes = Vec::new();
            // One byte more than allowed tells a file that fits from one that does not.
            std::fs::File::open(&path)
                .and_then(|file| file.take(MAX_SECRET + 1).read_to_end(&mut bytes))
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            if bytes.last() == Some(&b'\n') {
                bytes.pop();
                if bytes.last() == Some(&b'\r') {
                    bytes.pop();
                }
            }
            checked(bytes, || place(source, base_dir))
        }
        SecretSource::Env(name) => {
            use std::os::unix::ffi::OsStringExt as _;
            let value = std::env::var_os(name).ok_or_else(|| format!("the environment has no variable {name}"))?;
            checked(value.into_vec(), || place(source, base_dir))
        }
    }
}

fn checked(bytes: Vec<u8>, place: impl Fn() -> String) -> Result<Secret, String> {
    match bytes.len() as u64 {
        0 => Err(format!("{} is empty, expected a secret", place())),
        length if length > MAX_SECRET => {
            Err(format!("{} holds more than {MAX_SECRET} bytes, which is no secret", place()))
        }
        _ => Ok(Secret::new(bytes)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_file_is_a_secret_but_for_its_last_line_break() {
        let folder = tempfile::tempdir().unwrap();
        for (content, secret) in [("s3cret", "s3cret"), ("s3cret\n", "s3cret"), ("s\r\n", "s"), ("s\n\n", "s\n")] {
            std::fs::write(folder.path().join("secret"), content).unwrap();
            let read = read(&SecretSource::File("secret".into()), folder.path()).unwrap();
            assert_eq!(read.expose(), secret.as_bytes());
        }
    }

    #[test]
    fn what_is_no_secret_is_told_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("empty"), "\n").unwrap();
        std::fs::write(folder.path().join("long"), "hunter2".repeat(1000)).unwrap();
        for (file, told) in [("empty", "is empty"), ("long", "more than 4096"), ("absent", "cannot read")] {
            let why = read(&SecretSource::File(file.into()), folder.path()).unwrap_err();
            assert!(why.contains(told) && !why.contains("hunter2"), "{why}");
        }
        let why = read(&SecretSource::Env("SLUICE_TEST_ABSENT".into()), folder.path()).unwrap_err();
        assert_eq!(why, "the environment has no variable SLUICE_TEST_ABSENT");
    }
}
