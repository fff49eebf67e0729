//! Hardware addresses, by which cards are found again.

use serde::{Deserialize, Serialize};

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub(super) [u8; 6]);

impl Mac {
    /// One of six bytes that are not all zero.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; 6] = bytes.try_into().ok()?;
        (bytes != [0; 6]).then_some(Self(bytes))
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(f, ":{byte:02x}"))
    }
}

impl std::fmt::Debug for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bytes: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
        bytes.as_deref().and_then(Self::of).ok_or_else(|| format!("{text:?} is no hardware address"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_hardware_address_is_refused() {
        for text in ["", "52:54:00", "52:54:00:12:34:5g", "00:00:00:00:00:00", "52:54:00:12:34:56:78"] {
            assert!(Mac::try_from(text.to_owned()).is_err(), "{text}");
        }
        assert_eq!(Mac::of(&[0; 6]), None, "a tunnel has none");
    }
}
