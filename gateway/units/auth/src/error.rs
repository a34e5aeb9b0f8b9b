//! Why a token is refused, in the operator's voice, and which public reason each cause has.
//!
//! The client hears the reason alone (see [`crate::challenge`]); the cause goes to the log. No cause holds a token, a
//! claim's value or key material.

use sluice_vocabulary::Reason;

use crate::algorithm::Alg;
use crate::revocation::Kind;
use crate::strict_json::BadJson;

/// One of the three parts of a compact JWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Header,
    Payload,
    Signature,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Payload => "payload",
            Self::Signature => "signature",
        })
    }
}

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenFault {
    // What cannot be read.
    #[error("the token has {found} bytes, at most {most} are taken")]
    TooLong { found: usize, most: usize },
    #[error("the token is not three parts joined by dots")]
    NotThreeParts,
    #[error("the token's {0} is not strict base64url")]
    Encoding(Part),
    #[error("the token's {0} is {1}")]
    Json(Part, BadJson),

    // What is readable and not accepted, by the header.
    #[error("the header has no alg")]
    NoAlgorithm,
    #[error("the header's alg is none")]
    Unsecured,
    #[error("the header's alg is not one this gateway knows")]
    AlgorithmUnknown,
    #[error("the alg {name} is not in the issuer's list", name = .0.name())]
    AlgorithmNotAllowed(Alg),
    #[error("the header has {0}, which is not understood here")]
    Critical(&'static str),
    #[error("the header's typ is not that of an access token")]
    WrongType,
    #[error("the header's typ is not at+jwt, which the issuer's tokens must have")]
    NotAtJwt,

    // By key and signature.
    #[error("no key of the issuer has the token's kid")]
    KeyUnknown,
    #[error("the key that the token names is not for {name}", name = .0.name())]
    KeyNotForAlgorithm(Alg),
    #[error("the signature does not verify")]
    Signature,

    // By the claims.
    #[error("the claim {0} is missing")]
    ClaimMissing(&'static str),
    #[error("the claim {0} has not the form it must have")]
    ClaimForm(&'static str),
    #[error("the token's iss is not that of an issuer which the route accepts")]
    Issuer,
    #[error("the token's aud holds none of the issuer's audiences")]
    Audience,
    #[error("expired {ago} s ago")]
    Expired { ago: u64 },
    #[error("not valid for another {wait} s")]
    NotYetValid { wait: u64 },

    // By what was taken back.
    #[error("revoked by {name}", name = .0.name())]
    Revoked(Kind),
    // By its issuer, who was asked.
    #[error("its issuer says that the token is not active")]
    Inactive,
    #[error("its issuer says that it is not an access token for bearers")]
    WrongKind,
}

impl TokenFault {
    /// What the client is told.
    pub(crate) const fn reason(&self) -> Reason {
        match self {
            Self::TooLong { .. } | Self::NotThreeParts | Self::Encoding(_) | Self::Json(..) | Self::NoAlgorithm => {
                Reason::TokenMalformed
            }
            Self::Unsecured
            | Self::AlgorithmUnknown
            | Self::AlgorithmNotAllowed(_)
            | Self::Critical(_)
            | Self::WrongType
            | Self::NotAtJwt
            | Self::KeyUnknown
            | Self::KeyNotForAlgorithm(_)
            | Self::Signature
            | Self::ClaimMissing(_)
            | Self::ClaimForm(_)
            | Self::Inactive
            | Self::WrongKind => Reason::TokenRejected,
            Self::Issuer | Self::Audience => Reason::TokenNotForUs,
            Self::Expired { .. } => Reason::TokenExpired,
            Self::NotYetValid { .. } => Reason::TokenNotYetValid,
            Self::Revoked(_) => Reason::TokenRevoked,
        }
    }
}
