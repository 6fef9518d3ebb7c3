//! The time that passes: the operating system's, or in a browser the page's.

#[cfg(not(target_arch = "wasm32"))]
pub use std::time::Instant;

#[cfg(target_arch = "wasm32")]
pub use without_system::Instant;

#[cfg(target_arch = "wasm32")]
mod without_system {
    use std::ops::Sub;
    use std::time::Duration;

    /// As `std::time::Instant`, which there is none of without an operating system: it panics.
    #[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
    pub struct Instant(Duration);

    impl Instant {
        /// Now. Without the feature `web` time stands still.
        pub fn now() -> Self {
            #[cfg(feature = "web")]
            return Self(crate::web::now());
            #[cfg(not(feature = "web"))]
            return Self(Duration::ZERO);
        }

        /// How long ago that was.
        pub fn elapsed(self) -> Duration {
            Self::now() - self
        }

        /// The time since an earlier moment.
        pub fn checked_duration_since(self, earlier: Self) -> Option<Duration> {
            self.0.checked_sub(earlier.0)
        }
    }

    impl Sub for Instant {
        type Output = Duration;

        fn sub(self, earlier: Self) -> Duration {
            self.0.saturating_sub(earlier.0)
        }
    }
}
