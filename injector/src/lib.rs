//! Arms faults and reads back what happened.
