//! `type = "cluster"`

use std::fmt;

use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::super::table::Fault;
use super::{GateTable, names};
pub use crate::health::{ClusterRules, MinHealthy};
use crate::id::Group;

impl<'de> Deserialize<'de> for MinHealthy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = MinHealthy;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of machines from 1 to 1000000, or a share as \"60%\"")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<MinHealthy, E> {
                let count = u64::try_from(number).ok().filter(|n| (1..=1_000_000).contains(n));
                count.map(MinHealthy::Count).ok_or_else(|| {
                    E::custom(format!("{number} is not a number of machines from 1 to 1000000"))
                })
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MinHealthy, E> {
                let digits = text.strip_suffix('%').unwrap_or_default();
                let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
                let percent = digits.parse().ok().filter(|n| plain && (1..=100).contains(n));
                percent.map(MinHealthy::Percent).ok_or_else(|| {
                    E::custom(format!("{text:?} is not a share from \"1%\" to \"100%\""))
                })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

pub(super) fn check(table: GateTable) -> Result<ClusterRules, Fault> {
    let groups = table.groups.map(Spanned::into_inner).unwrap_or_default();
    let group = |group: Spanned<String>| {
        group.get_ref().parse::<Group>().map_err(|problem| Fault::at(&group, problem))
    };
    Ok(ClusterRules {
        min_healthy: table.min_healthy.map(Spanned::into_inner),
        max_unhealthy: table.max_unhealthy.map(|max| max.get_ref().get()),
        fallback: names("fallback", table.fallback)?,
        groups: groups.into_iter().map(group).collect::<Result<_, _>>()?,
    })
}
