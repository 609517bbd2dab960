//! Checking passwords, which is slow on purpose, without letting anybody keep us busy with it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::Refused;
use super::failures::Failures;

/// Each takes some 20 MB and a core while it lasts.
const AT_ONCE: usize = 2;

/// Who has to wait longer for its turn is told to ask again.
const PATIENCE: Duration = Duration::from_secs(2);

/// Checks the passwords of a name that nobody has, so that it takes as long as any other.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$\
                      bm9ib2R5bm9ib2R5$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE";

/// Passwords that were right are remembered, by a digest that only this process can make.
#[derive(Debug)]
pub(super) struct Passwords {
    key: [u8; 32],
    right: Mutex<HashSet<[u8; 32]>>,
    wrong: Failures,
    checking: Semaphore,
}

impl Default for Passwords {
    fn default() -> Self {
        let (right, wrong) = (Mutex::default(), Failures::default());
        Self { key: rand::random(), right, wrong, checking: Semaphore::new(AT_ONCE) }
    }
}

impl Passwords {
    /// Whether so many wrong ones came from `address` that no other is looked at.
    pub(super) fn allow(&self, address: IpAddr) -> Result<(), Refused> {
        self.wrong.allow(address).map_err(|_| Refused::Guessing)
    }

    /// Whether `password` is the one behind `hash`; of a name that nobody has, never. One that was right
    /// before is so whatever else comes from `address`: others may be behind it.
    pub(super) async fn is_right(
        &self,
        name: &str,
        password: &str,
        hash: Option<&str>,
        address: IpAddr,
    ) -> Result<bool, Refused> {
        let digest = self.digest(name, password);
        let remembered = |right: &HashSet<[u8; 32]>| right.contains(&digest);
        if remembered(&self.right.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(true);
        }
        self.allow(address)?;
        let turn = tokio::time::timeout(PATIENCE, self.checking.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(Refused::Busy) };
        // Others of its own may have been wrong meanwhile.
        self.allow(address)?;
        let (given, against) = (password.to_owned(), hash.unwrap_or(NOBODY).to_owned());
        let right = tokio::task::spawn_blocking(move || verify(&given, &against)).await;
        let right = right.unwrap_or(false) && hash.is_some();
        if right {
            self.right.lock().unwrap_or_else(PoisonError::into_inner).insert(digest);
        } else {
            self.wrong.add(address);
        }
        Ok(right)
    }

    fn digest(&self, name: &str, password: &str) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(self.key);
        digest.update((name.len() as u64).to_be_bytes());
        digest.update(name);
        digest.update(password);
        digest.finalize().into()
    }
}

fn verify(password: &str, hash: &str) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else { return false };
    Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
}

/// The hash of a password, as the file wants it.
///
/// # Errors
/// What went wrong, in words.
pub fn hash(password: &str) -> Result<String, String> {
    let hash = Argon2::default().hash_password(password.as_bytes());
    hash.map(|hash| hash.to_string()).map_err(|error| error.to_string())
}

/// Whether this is a hash that a password can be checked against.
pub(super) fn check(hash: &str) -> Result<(), String> {
    let advice = "expected an argon2 hash such as `rebootlock-gateway hash` makes";
    let parsed = PasswordHash::new(hash)
        .map_err(|error| format!("`password_hash` cannot be understood: {error}; {advice}"))?;
    match parsed.algorithm.as_str() {
        "argon2id" | "argon2i" | "argon2d" if parsed.hash.is_some() => Ok(()),
        other => Err(format!("`password_hash` is of the kind {other:?}; {advice}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_that_nobody_has_is_one_that_takes_its_time() {
        check(NOBODY).unwrap();
        assert!(!verify("nobody", NOBODY));
        assert!(check("$5$rounds=1000$x$y").is_err() && check("plain").is_err());
    }
}
