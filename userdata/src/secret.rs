//! A value that cannot be printed by accident.
//!
//! It is not wiped from memory, because the text it was read from held it too.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Has no `Display`; `Debug` prints `Secret(..)`. Serialising writes the value: that is how a
/// document is made.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    pub fn new(value: T) -> Self {
        Secret(value)
    }

    /// The value itself. The caller is responsible for where it goes.
    pub fn expose(&self) -> &T {
        &self.0
    }

    pub fn into_exposed(self) -> T {
        self.0
    }
}

impl<T> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Secret(value)
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_hides_the_value() {
        #[derive(Debug)]
        #[allow(dead_code)]
        struct Holder {
            key: Option<Secret<String>>,
        }
        let shown = format!(
            "{:?}",
            Holder {
                key: Some(Secret::new("hunter2".to_owned()))
            }
        );
        assert_eq!(shown, "Holder { key: Some(Secret(..)) }");
    }
}
