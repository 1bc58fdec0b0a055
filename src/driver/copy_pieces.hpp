// Host memory that was registered in pieces: a copy must not reach over the border of two.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "driver/cuda.hpp"

namespace weightcast::driver {

/// Borders between neighbouring pieces, sorted.
using Borders = std::vector<std::uintptr_t>;

/// Calls `copy` for the pieces that an item falls into; the first failure ends it.
inline Status in_pieces(CopyItem item, const Borders& borders,
                        const std::function<Status(const CopyItem&)>& copy) {
  while (item.bytes != 0) {
    CopyItem piece = item;
    for (const void* address : {static_cast<const void*>(item.to), item.from}) {
      const auto begin = reinterpret_cast<std::uintptr_t>(address);
      const auto border = std::upper_bound(borders.begin(), borders.end(), begin);
      if (border != borders.end()) {
        piece.bytes = std::min<std::uint64_t>(piece.bytes, *border - begin);
      }
    }
    if (Status s = copy(piece); !s) return s;
    item.to = static_cast<std::byte*>(item.to) + piece.bytes;
    item.from = static_cast<const std::byte*>(item.from) + piece.bytes;
    item.bytes -= piece.bytes;
  }
  return {};
}

}  // namespace weightcast::driver
