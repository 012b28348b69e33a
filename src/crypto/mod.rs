//! Mechanisms that keep secrets. Nothing here knows a use case or does I/O but for the master key's file.

pub mod api_token;
mod aside;
pub mod digest;
#[cfg(any(test, fuzzing))]
mod fuzzing;
mod pace;
pub mod password;
pub mod password_rules;
mod phc;
pub mod random;
pub mod recovery;
pub mod seal;
pub mod token;
pub mod totp;
mod turned_away;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use fuzzing::{api_token as fuzz_api_token, sealed as fuzz_sealed};
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use token::fuzzing::token as fuzz_token;
