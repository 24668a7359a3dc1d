//! Tables and numbers for people.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// A table with a header, the columns named in `right` aligned to the right. It fits a terminal's width; elsewhere
/// every row is one line.
pub(crate) fn table(header: &[&str], right: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.iter().copied())
        .add_rows(rows);
    if table.is_tty() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    for (column, name) in table.column_iter_mut().zip(header) {
        column.set_padding((0, 2));
        if right.contains(name) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

/// `1.20 MB`: decimal units, three digits.
pub(crate) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB"] {
        if value < 999.5 {
            break;
        }
        (value, unit) = (value / 1000.0, next);
    }
    let digits = match value {
        _ if unit == "B" => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

/// `12.3 %` of a whole; nothing of nothing is 0.
pub(crate) fn percent(part: f64, whole: f64) -> String {
    let share = if whole == 0.0 {
        0.0
    } else {
        100.0 * part / whole
    };
    format!("{share:.1} %")
}

/// Three significant digits, with an exponent where zeros would hide them.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 1e-3 => format!("{value:.2e}"),
        size if size < 1.0 => format!("{value:.4}"),
        size if size < 100.0 => format!("{value:.2}"),
        size if size < 1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// `512 x 64`.
pub(crate) fn shape(shape: &[usize]) -> String {
    crate::settings::join(shape, " x ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits_and_a_unit() {
        let check = |count, want| assert_eq!(bytes(count), want);
        check(0, "0 B");
        check(999, "999 B");
        check(1000, "1.00 kB");
        check(9_994, "9.99 kB");
        check(9_996, "10.0 kB");
        check(99_960, "100 kB");
        check(999_600, "1.00 MB");
        check(90_359_539, "90.4 MB");
        check(u64::MAX, "18446744 TB");
    }

    #[test]
    fn figures_keep_small_numbers_visible() {
        let check = |value, want| assert_eq!(figure(value), want);
        check(0.0, "0");
        check(0.000_012_3, "1.23e-5");
        check(0.0123, "0.0123");
        check(12.3, "12.30");
        assert_eq!(percent(1.0, 8.0), "12.5 %");
        assert_eq!(percent(1.0, 0.0), "0.0 %");
    }

    #[test]
    fn a_table_away_from_a_terminal_has_one_line_per_row() {
        let long = "a".repeat(300);
        let text = table(
            &["name", "bytes"],
            &["bytes"],
            vec![
                vec![long.clone(), "1".into()],
                vec!["b".into(), "10".into()],
            ],
        );
        assert_eq!(text.lines().count(), 3);
        assert!(text.contains(&long));
        assert!(text.lines().all(|line| line.trim_end() == line));
    }
}
