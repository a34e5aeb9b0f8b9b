//! Keeping the signing keys over a restart: one file, for its owner's eyes alone.
//!
//! It is written beside its place and moved there, so that there is always a whole one. A file that others may read is
//! not used: whoever read it can sign in the gateway's name.

use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base64url;
use crate::issue::config::IdentityAlgorithm;
use crate::issue::keys::{Ring, SigningKey};

const FILE: &str = "identity-keys.json";

/// The largest file read; a real one has some 2 KiB.
const LARGEST: u64 = 64 * 1024;

/// The file's form. Its keys are PKCS #8 in base64url.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    algorithm: IdentityAlgorithm,
    current: String,
    next: String,
    retired: Vec<Retired>,
    turns_at: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Retired {
    jwk: Value,
    until: u64,
}

/// Reads the keys kept in `folder`: none where nothing is kept, or keys of another algorithm. The error is fit for the
/// operator and holds nothing of the file.
pub(crate) fn load(folder: &Path, algorithm: IdentityAlgorithm) -> Result<Option<Ring>, String> {
    let path = folder.join(FILE);
    let at = path.display();
    let cannot = |error: io::Error| format!("cannot read {at}: {error}");
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cannot(error)),
    };
    let mode = file.metadata().map_err(cannot)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("{at} has the mode {mode:03o}, expected 600: others may have read its keys; remove it"));
    }
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text).map_err(cannot)?;
    let spoiled = || format!("{at} does not hold keys as this gateway keeps them: remove it, and new ones are made");
    let kept: Kept = serde_json::from_slice(&text).map_err(|_| spoiled())?;
    if kept.algorithm != algorithm {
        return Ok(None);
    }
    let key = |text: &str| -> Option<Arc<SigningKey>> {
        let pkcs8 = base64url::decode(text.as_bytes()).ok()?;
        SigningKey::from_pkcs8(algorithm, &pkcs8).map(Arc::new).ok()
    };
    Ok(Some(Ring {
        current: key(&kept.current).ok_or_else(spoiled)?,
        next: key(&kept.next).ok_or_else(spoiled)?,
        retired: kept.retired.into_iter().map(|retired| (retired.jwk, retired.until)).collect(),
        turns_at: kept.turns_at,
    }))
}

/// Keeps the keys in `folder`, which is made if it is not there. The error is fit for the operator.
pub(crate) fn save(folder: &Path, algorithm: IdentityAlgorithm, ring: &Ring) -> Result<(), String> {
    let unusable = |_| "a key cannot be written".to_owned();
    let kept = Kept {
        algorithm,
        current: base64url::encode(&ring.current.to_pkcs8().map_err(unusable)?),
        next: base64url::encode(&ring.next.to_pkcs8().map_err(unusable)?),
        retired: ring.retired.iter().map(|(jwk, until)| Retired { jwk: jwk.clone(), until: *until }).collect(),
        turns_at: ring.turns_at,
    };
    let text = serde_json::to_vec(&kept).map_err(|error| error.to_string())?;
    write(folder, &text).map_err(|error| format!("cannot write {}: {error}", folder.join(FILE).display()))
}

fn write(folder: &Path, text: &[u8]) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let (path, new) = (folder.join(FILE), folder.join(format!("{FILE}.new")));
    // One left behind by a process that died may have any mode.
    if let Err(error) = std::fs::remove_file(&new)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&new, &path)?;
    // The name is in the folder, which is written on its own.
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const ES256: IdentityAlgorithm = IdentityAlgorithm::ES256;

    #[test]
    fn what_is_kept_is_read_back_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("a/b");
        assert!(load(&state, ES256).unwrap().is_none());
        let mut ring = Ring::generate(ES256, 5).unwrap();
        ring.publish_too(&Ring::generate(ES256, 5).unwrap(), 9, 1);
        for _ in 0..2 {
            save(&state, ES256, &ring).unwrap();
        }
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&state), mode(&state.join(FILE))), (0o700, 0o600));
        let read = load(&state, ES256).unwrap().unwrap();
        assert_eq!((read.current.kid(), read.next.kid()), (ring.current.kid(), ring.next.kid()));
        assert_eq!((&read.retired, read.turns_at), (&ring.retired, 5));
        assert!(load(&state, IdentityAlgorithm::EdDSA).unwrap().is_none(), "keys of another algorithm are none");
    }

    #[test]
    fn what_others_may_read_or_what_is_spoiled_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), ES256, &Ring::generate(ES256, 5).unwrap()).unwrap();
        let path = folder.path().join(FILE);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(load(folder.path(), ES256).unwrap_err().contains("640, expected 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        for spoiled in [
            "",
            "{}",
            "secret",
            &whole[..whole.len() - 1],
            &whole.replace("\"next\"", "\"nexT\""),
            &whole.replace("MI", "MA"),
        ] {
            std::fs::write(&path, spoiled).unwrap();
            let why = load(folder.path(), ES256).unwrap_err();
            assert!(why.contains("does not hold keys") && !why.contains("secret"), "{why}");
        }
    }
}
