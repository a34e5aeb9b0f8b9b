//! Moments as log lines write them: RFC 3339, UTC, microseconds.
//!
//! The part down to the second is kept per thread and reused while the second lasts, since nearly every line of a busy
//! thread falls into the second of the line before.

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECONDS_PER_DAY: u64 = 86_400;

thread_local! {
    static LATEST: RefCell<(u64, [u8; 19])> = const { RefCell::new((u64::MAX, [0; 19])) };
}

/// Appends `moment` as `2026-03-01T12:00:00.000123Z`. A moment before 1970 is written as 1970's first.
pub fn write(moment: SystemTime, out: &mut Vec<u8>) {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    LATEST.with_borrow_mut(|(second, text)| {
        if *second != since.as_secs() {
            *second = since.as_secs();
            *text = date_and_time(*second);
        }
        out.extend_from_slice(text);
    });
    out.push(b'.');
    let micros = since.subsec_micros();
    let mut place = 100_000;
    while place > 0 {
        out.push(digit(u64::from(micros / place)));
        place /= 10;
    }
    out.push(b'Z');
}

/// The civil date of a day number by Howard Hinnant's `civil_from_days`, and the time of day after it.
fn date_and_time(unix_seconds: u64) -> [u8; 19] {
    // Days are counted from 0000-03-01, so that the leap day is the last of its year.
    let days = unix_seconds / SECONDS_PER_DAY + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);

    let of_day = unix_seconds % SECONDS_PER_DAY;
    let mut text = *b"0000-00-00T00:00:00";
    let mut put = |at: usize, width: usize, mut number: u64| {
        for index in (at..at + width).rev() {
            text[index] = digit(number);
            number /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, of_day / 3_600);
    put(14, 2, of_day / 60 % 60);
    put(17, 2, of_day % 60);
    text
}

/// The last decimal digit of a number.
fn digit(number: u64) -> u8 {
    // The remainder is below ten, so nothing is cut off.
    b'0' + (number % 10) as u8
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn written(seconds: u64, micros: u64) -> String {
        let mut out = Vec::new();
        write(UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_moment_is_written_as_rfc_3339_in_utc() {
        assert_eq!(written(0, 0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(written(951_782_399, 999_999), "2000-02-28T23:59:59.999999Z");
        assert_eq!(written(951_782_400, 1), "2000-02-29T00:00:00.000001Z");
        assert_eq!(written(1_709_210_096, 120_000), "2024-02-29T12:34:56.120000Z");
        assert_eq!(written(1_767_225_599, 0), "2025-12-31T23:59:59.000000Z");
        assert_eq!(written(4_107_542_400, 0), "2100-03-01T00:00:00.000000Z");
    }
}
