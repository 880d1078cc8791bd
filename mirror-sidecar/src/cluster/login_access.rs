//! Which logins a namespace may have, and which it uses.

/// Logins of the configuration. [`LoginSet`] has a bit for each.
pub const MAX_LOGINS: usize = 64;

/// Logins of the configuration, by their index in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoginSet(u64);

/// What is known about the logins for one namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoginAccess {
    /// The rules allow these.
    pub allowed: LoginSet,
    /// The rules may allow these, `allowed` included: some policies select the namespace by labels that are not known.
    pub possible: LoginSet,
    /// Workloads use images in the locations of these, or may use them.
    pub used: LoginSet,
    /// Some image may be pulled from a backup or a target, with or without a login.
    pub has_destinations: bool,
}

impl LoginSet {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self(u64::MAX);

    /// The login with this index; none if it exceeds [`MAX_LOGINS`].
    #[must_use]
    pub fn one(index: usize) -> Self {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        Self(1_u64.checked_shl(index).unwrap_or(0))
    }

    #[must_use]
    pub fn contains(self, index: usize) -> bool {
        !self.and(Self::one(index)).is_empty()
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The indexes in their order.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..MAX_LOGINS).filter(move |index| self.contains(*index))
    }
}

impl FromIterator<usize> for LoginSet {
    fn from_iter<I: IntoIterator<Item = usize>>(indexes: I) -> Self {
        let logins = indexes.into_iter().map(Self::one);
        logins.fold(Self::NONE, Self::or)
    }
}

impl LoginAccess {
    /// The logins that workloads need, or may need.
    #[must_use]
    pub const fn needed(&self) -> LoginSet {
        self.allowed.or(self.possible).or(self.used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_have_a_bit_for_each_login() {
        let all: LoginSet = (0..MAX_LOGINS).collect();
        assert_eq!(all, LoginSet::ALL);
        assert_eq!(LoginSet::one(MAX_LOGINS), LoginSet::NONE);
        let some: LoginSet = [1, 63].into_iter().collect();
        assert_eq!(some.iter().collect::<Vec<_>>(), [1, 63]);
        assert!(some.without(LoginSet::one(1)).contains(63) && !some.contains(0));
    }
}
