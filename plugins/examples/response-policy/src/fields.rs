//! The fields of a policy, and the nonce in one.

/// Keys under `fields`, and the header field that each is.
pub(crate) const FIELDS: [(&str, &str); 10] = [
    ("strict_transport_security", "strict-transport-security"),
    ("content_security_policy", "content-security-policy"),
    ("content_security_policy_report_only", "content-security-policy-report-only"),
    ("frame_options", "x-frame-options"),
    ("referrer_policy", "referrer-policy"),
    ("permissions_policy", "permissions-policy"),
    ("content_type_options", "x-content-type-options"),
    ("opener_policy", "cross-origin-opener-policy"),
    ("embedder_policy", "cross-origin-embedder-policy"),
    ("resource_policy", "cross-origin-resource-policy"),
];

/// Stands for the nonce in a policy.
pub(crate) const NONCE: &str = "{nonce}";

/// CSP 3 asks for 128 bits at least.
pub(crate) const NONCE_BYTES: u32 = 16;

/// Whether a field must not be sent in cleartext.
pub(crate) fn needs_tls(key: &str) -> bool {
    key == "strict_transport_security"
}

/// Whether a text can be a nonce that was made here: nothing else gets into a policy.
pub(crate) fn is_nonce(text: &str) -> bool {
    // 16 bytes in base64url without padding.
    text.len() == 22 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_made_here_is_a_nonce() {
        assert!(is_nonce("abcdefghijABCDEFGHIJ-_"));
        for text in ["", "abc", "abcdefghijABCDEFGHIJ';", "abcdefghijABCDEFGHIJ-_x", "äbcdefghijABCDEFGHIJ-"] {
            assert!(!is_nonce(text), "{text:?}");
        }
    }
}
