//! What must not be shown, though somebody wrote it into a configuration.
//!
//! No secret belongs into the file: where one is needed, the schema asks for the place it is kept. But people do write
//! them, most of all where the key is then refused. So a value is masked wherever its key or its own form suggests a
//! secret, wherever the schema says so (`x-secret`), and wherever its key is unknown.

/// What stands in place of a secret.
pub const REDACTED: &str = "[redacted]";

/// The longest text repeated in a message, in characters.
const LONGEST_SHOWN: usize = 64;

/// Whether a key's name suggests that its value is a secret: `password`, `client_secret`, `apiKey`, and near misses.
pub(crate) fn names_a_secret(key: &str) -> bool {
    const LAST_WORDS: [&str; 16] = [
        "password",
        "passwd",
        "pass",
        "passphrase",
        "secret",
        "secrets",
        "token",
        "tokens",
        "apikey",
        "credential",
        "credentials",
        "authorization",
        "bearer",
        "jwt",
        "cookie",
        "pin",
    ];
    const KINDS_OF_KEY: [&str; 6] = ["api", "private", "secret", "access", "signing", "encryption"];
    let words = words(key);
    let (Some(first), Some(last)) = (words.first(), words.last()) else { return false };
    // `max_token` bounds the length of one.
    if matches!(first.as_str(), "max" | "min") {
        return false;
    }
    if LAST_WORDS.contains(&last.as_str()) {
        return true;
    }
    if last == "key" {
        return words.len() > 1 && KINDS_OF_KEY.contains(&words[words.len() - 2].as_str());
    }
    // A misspelt `pasword` is refused as a key; its value is a password all the same.
    ["password", "passphrase", "secret", "credential"]
        .iter()
        .any(|name| last.len() >= 5 && strsim::damerau_levenshtein(last, name) <= name.len() / 4)
}

/// A key's words, by case and by `_`, `-`, `.`; lower case.
fn words(key: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before_lower = false;
    for c in key.chars().take(128) {
        if matches!(c, '_' | '-' | '.' | ' ') || (c.is_uppercase() && before_lower) {
            words.push(String::new());
        }
        before_lower = c.is_lowercase();
        if c.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Whether a text has the form of a secret: a URL with user information, a token, a private key, a credential of HTTP.
pub(crate) fn looks_secret(text: &str) -> bool {
    has_userinfo(text)
        || text.contains("-----BEGIN") && text.contains("PRIVATE KEY")
        || text.split(|c: char| c.is_whitespace() || "\"',".contains(c)).any(is_jwt)
        || ["bearer ", "basic "].iter().any(|scheme| {
            text.trim_start().get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
                && text.trim().len() > scheme.len() + 7
        })
}

fn has_userinfo(text: &str) -> bool {
    text.split("://").skip(1).any(|rest| {
        let authority = rest.split(['/', '?', '#', ' ']).next().unwrap_or_default();
        authority.contains('@')
    })
}

/// Three parts of base64url, the first of which begins as `{"` does.
fn is_jwt(text: &str) -> bool {
    text.starts_with("eyJ") && text.len() > 20 && text.matches('.').count() >= 2
}

/// A text as a message may repeat it: cut, its controls escaped, and not at all if it looks like a secret.
pub(crate) fn shown(text: &str) -> String {
    if looks_secret(text) {
        return REDACTED.to_owned();
    }
    let mut cut: String = text.chars().take(LONGEST_SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST_SHOWN).is_some() {
        cut.push('…');
    }
    cut
}

/// Which characters of a line may hold secrets, where nothing is known of the line but its text; from and up to.
pub(crate) fn guarded_ranges(line: &str) -> Vec<(usize, usize)> {
    let length = line.chars().count();
    let chars: Vec<char> = line.chars().collect();
    // A line of a key that was pasted in has no other mark than its look.
    let bare = line.trim();
    let is_blob = bare.len() >= 32 && bare.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=_-".contains(&b));
    if is_blob || looks_secret(line) {
        let indent = chars.iter().take_while(|c| c.is_whitespace()).count();
        return vec![(indent, length)];
    }
    for (at, c) in chars.iter().enumerate() {
        if !matches!(c, ':' | '=') {
            continue;
        }
        // A name is short; looking no further keeps long lines cheap.
        let before: String = chars[at.saturating_sub(64)..at].iter().collect();
        let name = before.trim_end().trim_matches(['"', '\'']);
        let name = name.rsplit(|c: char| !(c.is_alphanumeric() || "_-.".contains(c))).next().unwrap_or_default();
        if names_a_secret(name) {
            // Up to the end: where a value ends cannot be told in a line that was not understood.
            let gap = chars[at + 1..].iter().take_while(|c| c.is_whitespace()).count();
            return vec![(at + 1 + gap, length)];
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_a_secret_even_misspelt() {
        for key in ["password", "db_password", "clientSecret", "api_key", "private-key", "pasword", "secert", "Token"] {
            assert!(names_a_secret(key), "{key}");
        }
        for key in
            ["key", "path", "route", "tokens_per_second", "max_token", "secret_file", "address", "per", "passes", ""]
        {
            assert!(!names_a_secret(key), "{key}");
        }
    }

    #[test]
    fn a_text_that_looks_like_a_secret_is_never_repeated() {
        for text in [
            "https://user:pass@host/x",
            "redis://:pw@host",
            "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln",
            "Bearer abcdefgh12345",
            "-----BEGIN RSA PRIVATE KEY-----",
        ] {
            assert_eq!(shown(text), REDACTED, "{text}");
        }
        assert_eq!(shown("https://host/a@b"), "https://host/a@b");
        assert_eq!(shown("a\nb"), "a\\nb");
        assert_eq!(shown(&"x".repeat(70)), format!("{}…", "x".repeat(64)));
    }

    #[test]
    fn a_line_that_was_not_understood_is_guarded() {
        assert_eq!(guarded_ranges("  password: hunter2"), [(12, 19)]);
        assert_eq!(guarded_ranges("a: {secret: x, b: y}"), [(12, 20)]);
        assert_eq!(guarded_ranges("  MIIEvQIBADANBgkqhkiG9w0BAQEFAASC"), [(2, 34)]);
        assert!(guarded_ranges("  path: /orders").is_empty());
    }
}
