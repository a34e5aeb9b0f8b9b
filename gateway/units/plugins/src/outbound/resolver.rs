//! From names to addresses that may be asked.
//!
//! What is checked here is what is connected to: nobody looks a name up a second time, so that it cannot lead elsewhere in
//! between.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::Name;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tower_service::Service;

use super::address::{Reach, reach};

/// Where names lead.
pub trait Resolver: Debug + Send + Sync + 'static {
    /// The addresses of a name. May block: it is asked on threads that may.
    ///
    /// # Errors
    /// If the name leads nowhere, or nobody says where.
    fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The machine's own resolver: its hosts file, and the servers that it was told of.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        (name, 0).to_socket_addrs().map(|found| found.map(|address| address.ip()).collect())
    }
}

/// Why there is no address to connect to.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotResolved {
    #[error("{name} leads to {address}, which is not public and not granted")]
    Private { name: String, address: IpAddr },
    #[error("{name} leads nowhere: {why}")]
    Nowhere { name: String, why: io::Error },
    #[error("the gateway stops")]
    Stopped,
}

/// Names of one plugin, looked up and checked.
#[derive(Debug, Clone)]
pub(super) struct Checked {
    pub(super) resolver: Arc<dyn Resolver>,
    pub(super) background: Handle,
    /// Whether a name may lead to a private address.
    pub(super) private: bool,
    /// Look-ups at once. One that nobody waits for any more goes on until the machine gives it up, and holds a thread.
    pub(super) lookups: Arc<Semaphore>,
}

impl Checked {
    async fn look_up(self, name: String) -> Result<std::vec::IntoIter<SocketAddr>, NotResolved> {
        let Self { resolver, background, private, lookups } = self;
        let place = lookups.acquire_owned().await.map_err(|_| NotResolved::Stopped)?;
        let looked_up = background.spawn_blocking(move || {
            let found = resolver.resolve(&name);
            drop(place);
            (name, found)
        });
        let (name, found) = looked_up.await.map_err(|_| NotResolved::Stopped)?;
        let addresses = match found {
            Ok(addresses) if addresses.is_empty() => {
                let why = io::Error::new(io::ErrorKind::NotFound, "it has no address");
                return Err(NotResolved::Nowhere { name, why });
            }
            Ok(addresses) => addresses,
            Err(why) => return Err(NotResolved::Nowhere { name, why }),
        };
        let may_be_asked = |address: &IpAddr| match reach(*address) {
            Reach::Public => true,
            Reach::Private => private,
            Reach::Never => false,
        };
        // One that may not be asked among others that may: whoever answers for the name is up to something.
        if let Some(address) = addresses.iter().find(|address| !may_be_asked(address)) {
            return Err(NotResolved::Private { address: *address, name });
        }
        let addresses: Vec<_> = addresses.into_iter().map(|address| SocketAddr::new(address, 0)).collect();
        Ok(addresses.into_iter())
    }
}

impl Service<Name> for Checked {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = NotResolved;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, NotResolved>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NotResolved>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(self.clone().look_up(name.as_str().to_owned()))
    }
}
