//! Figures as people read them.

use std::time::Duration;

/// Three figures and a unit: `85 µs`, `1.25 ms`, `12.5 s`, `3.2 h`.
pub(super) fn span(value: Option<Duration>) -> String {
    let Some(value) = value else { return "–".to_owned() };
    let micros = value.as_secs_f64() * 1e6;
    let (number, unit) = if micros < 1e3 {
        (micros, "µs")
    } else if micros < 1e6 {
        (micros / 1e3, "ms")
    } else if micros < 600e6 {
        (micros / 1e6, "s")
    } else if micros < 36_000e6 {
        (micros / 60e6, "min")
    } else {
        (micros / 3_600e6, "h")
    };
    if unit == "µs" || number >= 100.0 {
        format!("{number:.0} {unit}")
    } else if number >= 10.0 {
        format!("{number:.1} {unit}")
    } else {
        format!("{number:.2} {unit}")
    }
}

/// A count, or a dash for none: in a table of zeros the other figures are hard to see.
pub(super) fn count(value: u64) -> String {
    if value == 0 { "–".to_owned() } else { value.to_string() }
}

/// A table with the first column to the left and all others to the right.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(column, title)| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([title.chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (column, (cell, width)) in cells.zip(&widths).enumerate() {
            let pad = width.saturating_sub(cell.chars().count());
            if column == 0 {
                text.push_str(cell);
                text.extend(std::iter::repeat_n(' ', pad));
            } else {
                text.extend(std::iter::repeat_n(' ', pad + 2));
                text.push_str(cell);
            }
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        text
    };
    let mut text = line(&mut head.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_three_figures_and_a_unit() {
        for (micros, expected) in [
            (0, "0 µs"),
            (85, "85 µs"),
            (1_250, "1.25 ms"),
            (12_500, "12.5 ms"),
            (250_000, "250 ms"),
            (12_500_000, "12.5 s"),
            (1_800_000_000, "30.0 min"),
            (36_000_000_000, "10.0 h"),
        ] {
            assert_eq!(span(Some(Duration::from_micros(micros))), expected);
        }
        assert_eq!(span(None), "–");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["10.0.0.5:80".to_owned(), "7".to_owned()], vec!["a".to_owned(), "12345".to_owned()]];
        assert_eq!(table(&["endpoint", "n"], &rows), "endpoint         n\n10.0.0.5:80      7\na            12345\n");
    }
}
