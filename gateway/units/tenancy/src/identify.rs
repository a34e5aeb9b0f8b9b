//! Who a request's tenant is.

use http::HeaderName;
use serde_json::Value;
use sluice_vocabulary::request::RequestView;
use sluice_vocabulary::{Identity, Reason, Refusal, TenantId};

use crate::config::{Config, Source};

/// The places where a tenant is named, ready to be asked.
#[derive(Debug)]
pub(crate) struct Sources {
    claims: Box<[Box<str>]>,
    headers: Box<[HeaderName]>,
    required: bool,
}

impl Sources {
    /// Names that `validate` refuses are left out.
    pub(crate) fn new(config: &Config) -> Self {
        let claims = config.identify.iter().filter_map(|source| match source {
            Source::Claim(name) => Some(name.as_str().into()),
            Source::Header(_) => None,
        });
        let headers = config.identify.iter().filter_map(|source| match source {
            Source::Header(name) => HeaderName::from_bytes(name.as_bytes()).ok(),
            Source::Claim(_) => None,
        });
        Self { claims: claims.collect(), headers: headers.collect(), required: config.required }
    }

    /// The tenant. `known` hands back a name that is held already, so that it need not be made anew.
    pub(crate) fn identify(
        &self,
        identity: Option<&Identity>,
        request: &RequestView<'_>,
        known: impl Fn(&str) -> Option<TenantId>,
    ) -> Result<Option<TenantId>, Refusal> {
        let tenant = |text: &str| known(text).map_or_else(|| TenantId::new(text), Ok);
        // A claim that is null says as little as one that is not there.
        let claim =
            |identity| self.claims.iter().filter_map(|name| Identity::claim(identity, name)).find(|it| !it.is_null());
        let claimed = match identity.and_then(claim) {
            None => None,
            Some(Value::String(text)) => Some(tenant(&text)),
            Some(Value::Number(number)) if !number.is_f64() => Some(tenant(&number.to_string())),
            Some(_) => return Err(unknown("the claim that names the tenant is neither text nor a whole number")),
        };
        let claimed = claimed.transpose().map_err(|error| unknown(&format!("the claim's tenant: {error}")))?;
        let in_header = self.in_header(request)?;
        match (claimed, in_header) {
            // To go on with either would let one unit act for one tenant and the upstream, which sees the field, for
            // another.
            (Some(claimed), Some(other)) if claimed.as_str() != other => {
                Err(unknown(&format!("the identity names the tenant {claimed}, a header field another")))
            }
            (Some(claimed), _) => Ok(Some(claimed)),
            (None, Some(text)) => {
                tenant(text).map(Some).map_err(|error| unknown(&format!("the header field's tenant: {error}")))
            }
            (None, None) if self.required => Err(unknown("the request names no tenant")),
            (None, None) => Ok(None),
        }
    }

    /// What the configured header fields say: all that are there must say the same.
    fn in_header<'r>(&self, request: &RequestView<'r>) -> Result<Option<&'r str>, Refusal> {
        let mut found = None;
        for name in &self.headers {
            for value in request.headers.get_all(name) {
                let text =
                    value.to_str().map_err(|_| unknown("the header field's tenant is not visible ASCII"))?.trim();
                if found.is_some_and(|found| found != text) {
                    return Err(unknown("header fields name several tenants"));
                }
                found = Some(text);
            }
        }
        Ok(found)
    }
}

fn unknown(internal: &str) -> Refusal {
    Refusal::new(Reason::TenantUnknown).internal(internal)
}
