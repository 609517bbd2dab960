//! Whether a request comes from the machine that it is about, as far as an address can tell.

use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::Semaphore;

/// Looking up a name takes no longer.
const WITHIN: Duration = Duration::from_secs(3);

/// Names looked up at once. The system does that in threads, which the store needs as well.
static LOOKUPS: Semaphore = Semaphore::const_new(8);

/// Whether `hostname` is that address, or a name of it.
///
/// # Errors
/// What is answered if it is not.
pub(super) async fn check(hostname: &str, address: IpAddr) -> Result<(), String> {
    let refused = || Err(format!("{} not permitted", hostname.escape_debug()));
    let address = address.to_canonical();
    if hostname == address.to_string() {
        return Ok(());
    }
    // Other spellings of addresses are none.
    if hostname.parse::<IpAddr>().is_ok() {
        return refused();
    }
    match addresses(hostname).await {
        Ok(known) if known.contains(&address) => Ok(()),
        Ok(_) => refused(),
        Err(problem) => Err(format!("lookup {}: {problem}", hostname.escape_debug())),
    }
}

async fn addresses(hostname: &str) -> Result<Vec<IpAddr>, String> {
    let plain = |c: char| !c.is_control() && !c.is_whitespace();
    if hostname.is_empty() || hostname.len() > 253 || !hostname.chars().all(plain) {
        return Err("no such host".to_owned());
    }
    let hostname = hostname.to_owned();
    // A lookup that takes too long keeps its place until its thread is free again.
    let looking = tokio::spawn(async move {
        let _place = LOOKUPS.acquire().await;
        let found = tokio::net::lookup_host((hostname.as_str(), 0)).await;
        found.map(|found| found.map(|socket| socket.ip().to_canonical()).collect::<Vec<_>>())
    });
    match tokio::time::timeout(WITHIN, looking).await {
        Ok(Ok(Ok(found))) => Ok(found),
        Ok(Ok(Err(error))) if !error.to_string().contains("Temporary") => {
            Err("no such host".to_owned())
        }
        Ok(Ok(Err(_)) | Err(_)) => Err("the resolver does not answer".to_owned()),
        Err(_) => Err("the resolver does not answer in time".to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_speaks_for_itself_and_for_its_names() {
        let one = |text: &str| text.parse::<IpAddr>().unwrap();
        for (hostname, address) in [
            ("127.0.0.7", "127.0.0.7"),
            ("127.0.0.7", "::ffff:127.0.0.7"),
            ("::1", "::1"),
            ("localhost", "127.0.0.1"),
        ] {
            assert_eq!(check(hostname, one(address)).await, Ok(()), "{hostname}");
        }
        for (hostname, address, said) in [
            ("127.0.0.7", "127.0.0.8", "127.0.0.7 not permitted"),
            ("0:0:0:0:0:0:0:1", "::1", "0:0:0:0:0:0:0:1 not permitted"),
            ("localhost", "192.0.2.1", "localhost not permitted"),
            ("", "127.0.0.1", "lookup : no such host"),
            ("a b", "127.0.0.1", "lookup a b: no such host"),
            ("a\nb", "127.0.0.1", "lookup a\\nb: no such host"),
        ] {
            assert_eq!(check(hostname, one(address)).await, Err(said.to_owned()), "{hostname:?}");
        }
        let said = check("nobody.invalid", one("127.0.0.1")).await.unwrap_err();
        assert!(said.starts_with("lookup nobody.invalid: "), "{said}");
    }
}
