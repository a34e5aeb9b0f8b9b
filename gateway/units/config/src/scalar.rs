//! What an unquoted scalar means: YAML 1.2's core schema (10.3.2), less what JSON cannot hold.

use crate::document::Kind;

/// A number that a configuration cannot hold.
pub(crate) struct NotANumber;

/// The value of a plain scalar. `on`, `no`, `1_000`, `0777` (a number to YAML 1.1) and dates are what they look like:
/// texts, but for `0777`, which is the number 777.
pub(crate) fn resolve(text: &str) -> Result<Kind, NotANumber> {
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        "true" | "True" | "TRUE" => Kind::Bool(true),
        "false" | "False" | "FALSE" => Kind::Bool(false),
        _ if text.bytes().all(|b| b.is_ascii_digit() || b"+-.eExXo_abcdfABCDFinafINAF".contains(&b)) => number(text)?,
        _ => Kind::Text(text.to_owned()),
    })
}

fn number(text: &str) -> Result<Kind, NotANumber> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let all = |digits: &str, radix: u32| !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Err(NotANumber);
    }
    if let Some(digits) = text.strip_prefix("0x").filter(|digits| all(digits, 16)) {
        return u64::from_str_radix(digits, 16).map(|n| Kind::Number(n.into())).map_err(|_| NotANumber);
    }
    if let Some(digits) = text.strip_prefix("0o").filter(|digits| all(digits, 8)) {
        return u64::from_str_radix(digits, 8).map(|n| Kind::Number(n.into())).map_err(|_| NotANumber);
    }
    if all(unsigned, 10) {
        let plain = text.strip_prefix('+').unwrap_or(text);
        return match (plain.parse::<u64>(), plain.parse::<i64>()) {
            (Ok(n), _) => Ok(Kind::Number(n.into())),
            (_, Ok(n)) => Ok(Kind::Number(n.into())),
            _ => Err(NotANumber),
        };
    }
    if is_float(unsigned) {
        let parsed = text.parse::<f64>().ok().and_then(serde_json::Number::from_f64);
        return parsed.map(Kind::Number).ok_or(NotANumber);
    }
    Ok(Kind::Text(text.to_owned()))
}

/// `( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`
fn is_float(text: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (text, None),
    };
    let mantissa_fits = match mantissa.split_once('.') {
        Some((whole, part)) => digits(whole) && digits(part) && !(whole.is_empty() && part.is_empty()),
        None => digits(mantissa) && !mantissa.is_empty(),
    };
    mantissa_fits && exponent.is_none_or(|exponent| digits(exponent) && !exponent.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> String {
        match resolve(text) {
            Ok(Kind::Null) => "null".to_owned(),
            Ok(Kind::Bool(value)) => value.to_string(),
            Ok(Kind::Number(value)) => value.to_string(),
            Ok(Kind::Text(value)) => format!("{value:?}"),
            Ok(_) => "a collection".to_owned(),
            Err(NotANumber) => "refused".to_owned(),
        }
    }

    #[test]
    fn a_scalar_means_what_yaml_1_2_says() {
        let table = [
            ("", "null"),
            ("~", "null"),
            ("True", "true"),
            ("on", "\"on\""),
            ("no", "\"no\""),
            ("yes", "\"yes\""),
            ("0777", "777"),
            ("0o17", "15"),
            ("0xff", "255"),
            ("-12", "-12"),
            ("+12", "12"),
            ("18446744073709551615", "18446744073709551615"),
            ("18446744073709551616", "refused"),
            ("1e3", "1000.0"),
            (".5", "0.5"),
            ("1.", "1.0"),
            (".", "\".\""),
            ("1_000", "\"1_000\""),
            ("1e", "\"1e\""),
            ("e5", "\"e5\""),
            (".inf", "refused"),
            (".nan", "refused"),
            ("1e999", "refused"),
            ("127.0.0.1", "\"127.0.0.1\""),
            ("2026-01-01", "\"2026-01-01\""),
            ("-", "\"-\""),
            ("5s", "\"5s\""),
        ];
        for (text, meaning) in table {
            assert_eq!(resolved(text), meaning, "{text:?}");
        }
    }
}
