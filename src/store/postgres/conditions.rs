//! A statement with only the conditions that are asked for: each combination is a statement of its own, with a plan and an
//! index of its own.

use tokio_postgres::types::ToSql;

/// A statement that grows, and its values.
pub(super) struct Conditions<'a> {
    sql: String,
    values: Vec<&'a (dyn ToSql + Sync)>,
}

impl<'a> Conditions<'a> {
    /// A statement that has a `WHERE`, with the values that it names.
    pub(super) fn new(sql: &str, values: &[&'a (dyn ToSql + Sync)]) -> Self {
        Self { sql: sql.to_owned(), values: values.to_vec() }
    }

    /// `AND`, and a condition around a value.
    pub(super) fn and(&mut self, before: &str, value: &'a (dyn ToSql + Sync), after: &str) {
        self.values.push(value);
        let number = self.values.len().to_string();
        for part in [" AND ", before, "$", number.as_str(), after] {
            self.sql.push_str(part);
        }
    }

    /// The whole statement, which ends like this.
    pub(super) fn ending(mut self, end: &str) -> (String, Vec<&'a (dyn ToSql + Sync)>) {
        self.sql.push_str(end);
        (self.sql, self.values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_numbered_in_order() {
        let mut conditions = Conditions::new("SELECT 1 WHERE a > $1", &[&1]);
        conditions.and("b = ", &"x", "");
        conditions.and("strpos(c, ", &"y", ") > 0");
        let (sql, values) = conditions.ending(" LIMIT 2");
        assert_eq!(sql, "SELECT 1 WHERE a > $1 AND b = $2 AND strpos(c, $3) > 0 LIMIT 2");
        assert_eq!(values.len(), 3);
    }
}
