//! Numbers and addresses as text, for what is written on every request: `format!` takes ten times as long for them.

use std::net::IpAddr;

/// Appends a number in decimal.
pub fn push_number(text: &mut String, number: u64) {
    if let Ok(small) = u16::try_from(number)
        && small < 1000
    {
        return push_small(text, small);
    }
    // 2^64 has twenty digits.
    let mut digits = [b'0'; 20];
    let (mut left, mut length) = (number, 0);
    for place in digits.iter_mut().rev() {
        // A remainder by ten is one digit.
        *place = b'0' + u8::try_from(left % 10).unwrap_or(0);
        left /= 10;
        length += 1;
        if left == 0 {
            break;
        }
    }
    let written = digits.len().checked_sub(length).and_then(|start| digits.get(start..)).unwrap_or_default();
    text.push_str(str::from_utf8(written).unwrap_or_default());
}

/// Appends an address as the standard library shows it.
pub fn push_address(text: &mut String, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            text.reserve(15);
            push_small(text, a.into());
            for octet in [b, c, d] {
                text.push('.');
                push_small(text, octet.into());
            }
        }
        IpAddr::V6(v6) => {
            let _infallible = std::fmt::Write::write_fmt(text, format_args!("{v6}"));
        }
    }
}

/// Below 1000.
fn push_small(text: &mut String, number: u16) {
    let digit = |digit: u16| char::from(b'0' + u8::try_from(digit % 10).unwrap_or(0));
    if number >= 100 {
        text.push(digit(number / 100));
    }
    if number >= 10 {
        text.push(digit(number / 10));
    }
    text.push(digit(number));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_are_written_as_format_does(number: u64, small in 0_u64..1000) {
            for number in [number, small, u64::MAX] {
                let mut text = "x".to_owned();
                push_number(&mut text, number);
                prop_assert_eq!(text, format!("x{number}"));
            }
        }

        #[test]
        fn addresses_are_written_as_format_does(v4: [u8; 4], v6: [u16; 8]) {
            for address in [IpAddr::from(v4), IpAddr::from(v6)] {
                let mut text = String::new();
                push_address(&mut text, address);
                prop_assert_eq!(text, address.to_string());
            }
        }
    }
}
