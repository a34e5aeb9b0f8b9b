//! The page of the gateway's own public keys.

use std::sync::Arc;

use serde_json::{Value, json};
use sluice_vocabulary::ports::Inspect;

use crate::unit::Core;

/// The public keys that identity tokens are signed with: a JWK Set, for `/identity/jwks.json` of the admin's door.
#[derive(Debug)]
pub struct IdentityKeys {
    pub(crate) core: Arc<Core>,
}

impl Inspect for IdentityKeys {
    fn inspect(&self) -> Value {
        // Before the first configuration nothing is signed.
        self.core.world.load().shared.mint.as_ref().map_or_else(|| json!({ "keys": [] }), |mint| mint.published())
    }
}
