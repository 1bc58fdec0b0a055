// base::Waker, as the I/O threads of this room and the rooms above call it.
#pragma once

#include "base/waker.hpp"

namespace weightcast::stream {

using base::Waker;

}  // namespace weightcast::stream
