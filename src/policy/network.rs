//! Sets of networks that addresses are looked up in, with one form for what has two: an IPv4 address mapped into
//! IPv6 (`::ffff:10.0.0.1`, as a dual-stack socket reports it) is the IPv4 address.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// Networks, in canonical form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Takes the operator's list.
    pub fn new(networks: &[IpNet]) -> Self {
        Self(networks.iter().copied().map(canonical).collect())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them holds `address`.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// `::ffff:10.0.0.0/104` as `10.0.0.0/8`. A network that is wider than all mapped addresses stays what it is.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    let v4 = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    v4.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(network, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_ipv4() {
        let networks =
            Networks::new(&["10.0.0.0/8".parse().unwrap(), "::ffff:172.16.0.0/108".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        for inside in ["10.1.2.3", "::ffff:10.1.2.3", "172.16.0.1", "::ffff:172.31.0.1", "fd00::1"] {
            assert!(networks.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["11.0.0.1", "172.32.0.1", "::1", "::10.0.0.1", "fe80::1"] {
            assert!(!networks.contains(outside.parse().unwrap()), "{outside}");
        }
        assert!(!Networks::default().contains("10.0.0.1".parse().unwrap()));
        assert!(Networks::new(&["0.0.0.0/0".parse().unwrap()]).contains("::ffff:1.2.3.4".parse().unwrap()));
    }
}
