//! Raw bindings to libxencall, libxenctrl and public/xfi.h.
