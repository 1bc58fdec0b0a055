// Whether a sanitizer runs this test: it has memory of its own, and takes ten times as long.
#pragma once

namespace weightcast::test {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace weightcast::test
