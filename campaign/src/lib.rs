//! Plan, run loop, journal, resume.
