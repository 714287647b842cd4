//! The addresses of a range, as upstream counts them.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// Without the network's own address, and in IPv4 without the broadcast address. The first `reserved` are picked last, so that
/// they stay free for those who choose for themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AddressRange {
    pub(super) network: IpNet,
    size: u64,
    reserved: u64,
}

impl AddressRange {
    pub(super) fn new(network: IpNet) -> Self {
        let bits = u32::from(network.max_prefix_len() - network.prefix_len());
        let hosts = 1u64.checked_shl(bits).unwrap_or(u64::MAX);
        let size = hosts.saturating_sub(if network.addr().is_ipv4() { 2 } else { 1 });
        // The size of upstream's static band.
        let reserved = if size < 16 { 0 } else { (size / 16).clamp(16, 256) };
        Self { network: network.trunc(), size, reserved }
    }

    pub(super) fn is_ipv4(&self) -> bool {
        self.network.addr().is_ipv4()
    }

    fn nth(&self, offset: u64) -> IpAddr {
        match self.network.network() {
            // Offsets are less than the size, which fits.
            IpAddr::V4(base) => (u32::from(base).wrapping_add(1).wrapping_add(offset as u32)).to_be_bytes().into(),
            IpAddr::V6(base) => Ipv6Addr::from(u128::from(base) + 1 + u128::from(offset)).into(),
        }
    }

    pub(super) fn first(&self) -> IpAddr {
        self.nth(0)
    }

    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        let offset = match (ip, self.first()) {
            (IpAddr::V4(ip), IpAddr::V4(first)) => u32::from(ip).checked_sub(u32::from(first)).map(u64::from),
            (IpAddr::V6(ip), IpAddr::V6(first)) => {
                u128::from(ip).checked_sub(u128::from(first)).and_then(|o| u64::try_from(o).ok())
            }
            _ => None,
        };
        offset.is_some_and(|offset| offset < self.size)
    }

    /// Any address that is not taken: the first at or after a random place of the upper band, else of the lower band.
    pub(super) fn pick(&self, random: u64, is_taken: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        [(self.reserved, self.size), (0, self.reserved)].into_iter().filter(|(start, end)| start < end).find_map(
            |(start, end)| {
                let length = end - start;
                let first = random % length;
                (0..length)
                    .map(|i| self.nth(start + (u128::from(first) + u128::from(i)).rem_euclid(length.into()) as u64))
                    .find(|ip| !is_taken(*ip))
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> AddressRange {
        AddressRange::new(text.parse().unwrap())
    }

    #[test]
    fn ranges_begin_and_end() {
        let check = |text: &str, ip: &str, expect: bool| {
            assert_eq!(range(text).contains(ip.parse().unwrap()), expect, "{ip} in {text}");
        };
        check("10.96.0.0/28", "10.96.0.0", false);
        check("10.96.0.0/28", "10.96.0.1", true);
        check("10.96.0.0/28", "10.96.0.14", true);
        check("10.96.0.0/28", "10.96.0.15", false);
        check("fd00::/108", "fd00::f:ffff", true);
        check("fd00::/108", "fd00::10:0", false);
        check("fd00::/64", "fd00::ffff:ffff:ffff:ffff", false);
        check("fd00::/64", "fd00::ffff:ffff:ffff:fffe", true);
        check("10.96.0.0/28", "fd00::1", false);
    }

    #[test]
    fn the_lower_band_is_picked_last() {
        let (range, mut taken) = (range("10.96.0.0/24"), std::collections::BTreeSet::new());
        for random in 0..254u64 {
            let ip = range.pick(random * 7919, |ip| taken.contains(&ip)).unwrap();
            let IpAddr::V4(v4) = ip else { unreachable!() };
            assert_eq!(v4.octets()[3] > 16, random < 238, "{ip} after {random}");
            assert!(taken.insert(ip));
        }
        assert_eq!(range.pick(5, |ip| taken.contains(&ip)), None);
        assert!(range.pick(u64::MAX, |_| false).is_some());
        let whole = AddressRange::new("fd00::/64".parse().unwrap());
        assert!(whole.contains(whole.pick(u64::MAX, |_| false).unwrap()));
    }
}
