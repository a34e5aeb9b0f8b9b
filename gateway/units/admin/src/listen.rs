//! The socket of the door: bound when the unit is made, so that an address in use is a fault at start.

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::config::{Config, DEFAULT_ADDRESS};

/// Where the door is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An address; the port is the real one where 0 was configured.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why the door cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("admin cannot listen on {address}")]
pub struct BindError {
    address: String,
    #[source]
    source: io::Error,
}

/// A bound socket. A Unix socket's file goes with it.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix { listener: UnixListener, path: PathBuf, inode: Option<u64> },
}

impl Listener {
    pub(crate) fn bind(config: &Config) -> Result<(Self, Address), BindError> {
        match &config.socket {
            Some(path) => {
                let mode = config.permissions().unwrap_or(0o600);
                let bound = bind_unix(path, mode);
                let (listener, inode) =
                    bound.map_err(|source| BindError { address: format!("unix:{}", path.display()), source })?;
                Ok((Self::Unix { listener, path: path.clone(), inode }, Address::Unix(path.clone())))
            }
            None => {
                let wanted = config.address.unwrap_or(DEFAULT_ADDRESS);
                let bound = TcpListener::bind(wanted).and_then(|listener| {
                    listener.set_nonblocking(true)?;
                    let address = listener.local_addr()?;
                    Ok((listener, address))
                });
                let (listener, address) = bound.map_err(|source| BindError { address: wanted.to_string(), source })?;
                Ok((Self::Tcp(listener), Address::Tcp(address)))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Self::Unix { path, inode, .. } = self else { return };
        // Another process may have put its own socket there since.
        if inode.is_some() && fs::symlink_metadata(&*path).ok().map(|metadata| metadata.ino()) == *inode {
            let _ = fs::remove_file(path);
        }
    }
}

fn bind_unix(path: &Path, mode: u32) -> io::Result<(UnixListener, Option<u64>)> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path) => {
            fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        other => other?,
    };
    // Until here the umask holds, which by custom leaves nobody but the owner the right to connect.
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    listener.set_nonblocking(true)?;
    let inode = fs::symlink_metadata(path).ok().map(|metadata| metadata.ino());
    Ok((listener, inode))
}

/// Whether it is a socket that nobody listens on: what a killed process leaves behind. Never another kind of file.
fn is_abandoned(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}
