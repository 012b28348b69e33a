//! Mechanisms that keep secrets. Nothing here knows a use case or does I/O but for the master key's file.

pub mod api_token;
mod aside;
pub mod digest;
pub mod password;
pub mod password_rules;
mod phc;
pub mod random;
pub mod recovery;
pub mod seal;
pub mod token;
pub mod totp;
