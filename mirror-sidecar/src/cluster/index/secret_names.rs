//! Which of the names of the pull Secret a workload lists: the present one, and those that it had before.

use super::rules::Rules;

/// Names of the pull Secret, the present one included.
pub const MAX_SECRET_NAMES: usize = 8;

/// The place of the present name among all names.
pub const PRESENT_NAME: usize = 0;

/// The names that a workload lists, as bits: by their places in [`Rules::secret_names`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SecretNames(u8);

/// How many workloads list each of the names.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SecretNameCounts([u32; MAX_SECRET_NAMES]);

impl Rules {
    /// All names of the pull Secret, the present one first.
    pub(super) fn secret_names(&self) -> impl Iterator<Item = Option<&str>> {
        let former = self.former_pull_secrets.iter();
        std::iter::once(self.pull_secret.as_deref())
            .chain(former.map(|name| Some(name.as_str())))
            .take(MAX_SECRET_NAMES)
    }
}

impl SecretNames {
    /// Those that are among the `listed` names of Secrets.
    pub(super) fn of(listed: &[String], rules: &Rules) -> Self {
        let is_listed =
            |name: Option<&str>| name.is_some_and(|name| listed.iter().any(|it| it == name));
        let names = rules.secret_names().enumerate();
        let bits = names.map(|(place, name)| u8::from(is_listed(name)) << place);
        Self(bits.fold(0, |all, bit| all | bit))
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn has_present(self) -> bool {
        self.has(PRESENT_NAME)
    }

    /// Whether it lists a former name alone, so that it is to be moved to the present one.
    pub(super) fn is_outdated(self) -> bool {
        !self.is_empty() && !self.has_present()
    }

    fn has(self, place: usize) -> bool {
        self.0 >> place & 1 == 1
    }
}

impl SecretNameCounts {
    pub(super) fn add(&mut self, names: SecretNames) {
        for (place, count) in self.0.iter_mut().enumerate() {
            *count = count.saturating_add(u32::from(names.has(place)));
        }
    }

    pub(super) fn remove(&mut self, names: SecretNames) {
        for (place, count) in self.0.iter_mut().enumerate() {
            *count = count.saturating_sub(u32::from(names.has(place)));
        }
    }

    pub(super) fn is_listed(&self, place: usize) -> bool {
        self.0.get(place).is_some_and(|count| *count > 0)
    }
}
