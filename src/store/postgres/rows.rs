//! Values from rows, and identifiers to columns.

use serde::de::DeserializeOwned;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::store::{Error, record};

/// An identifier as a column has it.
pub(super) const fn id(bytes: &[u8; 16]) -> Uuid {
    Uuid::from_bytes(*bytes)
}

/// The identifiers in the first column.
pub(super) fn ids<T>(rows: &[Row], make: fn([u8; 16]) -> T) -> Result<Vec<T>, Error> {
    rows.iter().map(|row| row.try_get::<_, Uuid>(0).map(|id| make(id.into_bytes())).map_err(unexpected)).collect()
}

/// The value of the record in this column.
pub(super) fn record_of<T: DeserializeOwned>(row: &Row, column: usize) -> Result<T, Error> {
    record::decode(row.try_get(column).map_err(unexpected)?)
}

/// The values of the records in the first column.
pub(super) fn records<T: DeserializeOwned>(rows: &[Row]) -> Result<Vec<T>, Error> {
    rows.iter().map(|row| record_of(row, 0)).collect()
}

/// A column that is not what the schema says.
#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` has")]
pub(super) fn unexpected(error: tokio_postgres::Error) -> Error {
    Error::Corrupt(error.to_string())
}
