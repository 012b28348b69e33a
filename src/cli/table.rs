//! Lists for people: columns as wide as their widest cell, two spaces between.

/// A table being filled.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// A table with these headings.
    pub(super) fn new(headings: [&str; N]) -> Self {
        Self { rows: vec![headings.map(str::to_owned)] }
    }

    /// Adds a row. An empty cell is shown as `-`.
    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| if cell.is_empty() { "-".to_owned() } else { harmless(&cell) }));
    }

    /// The text, each row with its line end.
    pub(super) fn render(&self) -> String {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (width, cell) in widths.iter().zip(row) {
                line.push_str(cell);
                // One space more than the padding, twice: an empty column would otherwise stick to the next.
                line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()) + 2));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A text without what a terminal would obey or a reader could be fooled by: a user agent is whatever a client sent.
pub(super) fn harmless(text: &str) -> String {
    text.chars().map(|c| if is_odd(c) { '\u{fffd}' } else { c }).collect()
}

/// Whether a terminal would obey this character, or a reader not see it.
pub(super) fn is_odd(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A time without its milliseconds, which nobody reads in a list.
pub(super) fn time(text: &str) -> String {
    match text.split_once('.') {
        Some((time, _)) => format!("{time}Z"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(["A", "LONGER", "C"]);
        table.row(["ünï".to_owned(), String::new(), "x".to_owned()]);
        table.row(["a".to_owned(), "b".to_owned(), String::new()]);
        assert_eq!(table.render(), "A    LONGER  C\nünï  -       x\na    b       -\n");
    }

    #[test]
    fn a_terminal_is_told_nothing_by_a_cell() {
        assert_eq!(harmless("a\x1b[2Jb\u{9b}c\u{202e}d\ne"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d\u{fffd}e");
    }

    #[test]
    fn times_are_short() {
        assert_eq!(time("2023-11-14T22:13:20.123Z"), "2023-11-14T22:13:20Z");
    }
}
