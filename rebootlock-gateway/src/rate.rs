//! How often one client may ask.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};

/// So many requests a minute from each address; a burst may have them all at once.
#[derive(Debug)]
pub struct RateLimit {
    limiter: DefaultKeyedRateLimiter<IpAddr>,
    clock: DefaultClock,
}

impl RateLimit {
    /// A limit, unless it is nothing.
    pub fn new(requests_per_minute: u32) -> Option<Self> {
        let quota = Quota::per_minute(NonZeroU32::new(requests_per_minute)?);
        Some(Self {
            limiter: DefaultKeyedRateLimiter::keyed(quota),
            clock: DefaultClock::default(),
        })
    }

    /// Counts a request of `address`.
    ///
    /// # Errors
    /// How long it should wait, if it has had its share.
    pub fn count(&self, address: IpAddr) -> Result<(), Duration> {
        let asked = self.limiter.check_key(&client(address));
        asked.map_err(|refused| refused.wait_time_from(self.clock.now()))
    }

    /// Forgets those who have asked for nothing lately.
    pub fn tidy(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

/// One machine has a whole /64 of IPv6 to itself.
pub(crate) fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => {
            let [a, b, c, d, ..] = six.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        four => four,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_own_share() {
        let limit = RateLimit::new(2).unwrap();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for _ in 0..2 {
            assert_eq!(limit.count(address("10.0.0.1")), Ok(()));
            assert_eq!(limit.count(address("2001:db8::1")), Ok(()));
        }
        let wait = limit.count(address("10.0.0.1")).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(30));
        assert!(limit.count(address("2001:db8::2")).is_err(), "the same /64");
        assert!(limit.count(address("::ffff:10.0.0.1")).is_err(), "the same address");
        assert_eq!(limit.count(address("10.0.0.2")), Ok(()));
        assert!(RateLimit::new(0).is_none());
    }
}
