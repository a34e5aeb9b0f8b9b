//! What plugins leave behind, to be looked at from outside: what they stored, what they counted, and their word at an
//! exchange's end. For whoever plays requests and then asks what came of them.

use std::sync::Arc;

use sluice_vocabulary::{PluginName, TenantId};

use crate::contract::key_value::StoreFault;
use crate::ends::{Ends, Farewell};
use crate::message::{Ended, RequestHead, Who};
use crate::unit::Handle;

/// One series of a plugin's own.
#[derive(Debug, Clone, PartialEq)]
pub struct Counted {
    /// Its name.
    pub name: String,
    /// Its labels, in alphabetical order.
    pub labels: Vec<(String, String)>,
    /// What it stands at.
    pub value: f64,
}

/// An entry was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotStored {
    /// No plugin of that name is loaded.
    #[error("there is no such plugin")]
    NoPlugin,
    /// The key or the value is not one.
    #[error("expected a key of 1 to 256 bytes and a value of at most 65536")]
    Invalid,
    /// The space has no room for it.
    #[error("it has no room: grants.key_value bounds entries and bytes")]
    Full,
}

impl Handle {
    /// The value of a key in a tenant's space of a plugin's store.
    pub fn stored(&self, plugin: &PluginName, tenant: Option<&TenantId>, key: &str) -> Option<Vec<u8>> {
        let (_, store) = self.lasting(plugin)?;
        store.get(tenant, key, self.now()).ok().flatten().map(|entry| entry.value)
    }

    /// Writes an entry, never to expire, into a tenant's space of a plugin's store.
    ///
    /// # Errors
    /// If there is no such plugin, if it is no entry, or if there is no room.
    pub fn store(
        &self,
        plugin: &PluginName,
        tenant: Option<&TenantId>,
        key: &str,
        value: &[u8],
    ) -> Result<(), NotStored> {
        let (_, store) = self.lasting(plugin).ok_or(NotStored::NoPlugin)?;
        match store.set(tenant, key, value, None, self.now()) {
            Ok(_) => Ok(()),
            Err(StoreFault::Full) => Err(NotStored::Full),
            Err(StoreFault::Invalid | StoreFault::NotANumber) => Err(NotStored::Invalid),
        }
    }

    /// What a plugin has counted and measured, in the order of names and labels.
    pub fn counted(&self, plugin: &PluginName) -> Vec<Counted> {
        self.lasting(plugin).map(|(counts, _)| counts.all()).unwrap_or_default()
    }
}

impl Ends {
    /// Calls the last phase of each of these plugins, here and now. [`Handle::ended`] has the unit's task do it some time.
    pub async fn tell(self, request: Arc<RequestHead>, who: Who, ended: Ended) {
        Farewell { ends: self, request, who, ended: Arc::new(ended) }.call().await;
    }
}
