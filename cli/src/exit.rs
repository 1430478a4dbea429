//! Exit codes: part of the command's interface, listed in `xfi --help`.

use std::fmt;

/// Why the command ends other than well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Something failed.
    Failure = 1,
    /// The arguments or a file given are not valid.
    Usage = 2,
    /// The injection did not fire: expired, disarmed, or its target went away.
    NotFired = 3,
    /// No testbed, Xen host or server to act on, or a prerequisite is missing.
    NoHost = 4,
    /// No such domain, or none could be chosen.
    NoDomain = 5,
    /// Another xfi is at it.
    Busy = 6,
    /// A campaign was stopped before its end; it can be resumed.
    Stopped = 7,
    /// A server under load gave an answer that was not right, or none.
    NotRight = 8,
    /// Interrupted by a signal.
    Interrupted = 130,
}

/// An error with its exit code.
#[derive(Debug)]
pub(crate) struct Coded {
    pub(crate) exit: Exit,
    message: String,
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Coded {}

/// An error that ends the command with `exit`.
pub(crate) fn coded(exit: Exit, message: impl fmt::Display) -> anyhow::Error {
    anyhow::Error::new(Coded {
        exit,
        message: message.to_string(),
    })
}

/// The exit code an error asks for.
pub(crate) fn code_of(error: &anyhow::Error) -> Exit {
    use xfi_campaign::CampaignError as C;
    use xfi_testbed::TestbedError as T;
    use xfi_workloads::WorkloadError as W;
    for cause in error.chain() {
        match cause.downcast_ref::<W>() {
            Some(W::NoSuchProfile { .. } | W::Invalid { .. } | W::Spec { .. }) => {
                return Exit::Usage;
            }
            Some(W::NoServer { .. } | W::Program { .. }) => return Exit::NoHost,
            _ => {}
        }
        if let Some(c) = cause.downcast_ref::<Coded>() {
            return c.exit;
        }
        let testbed = match cause.downcast_ref::<C>() {
            Some(C::Parse { .. } | C::Invalid { .. } | C::NotARunDir { .. }) => {
                return Exit::Usage;
            }
            Some(C::InUse(_)) => return Exit::Busy,
            Some(C::Testbed(t)) => Some(t),
            _ => cause.downcast_ref::<T>(),
        };
        match testbed {
            Some(T::Locked { .. } | T::ClientBusy { .. } | T::AlreadyUp { .. }) => {
                return Exit::Busy;
            }
            Some(T::NotUp | T::NotBuilt { .. } | T::NoArtifactRoot | T::MissingProgram { .. }) => {
                return Exit::NoHost;
            }
            Some(T::NoSuchLayout { .. } | T::LayoutSyntax { .. } | T::LayoutInvalid { .. }) => {
                return Exit::Usage;
            }
            _ => {}
        }
    }
    Exit::Failure
}
