#pragma once

// Marks what libweightcast.so exports; everything else in it is hidden.
#if defined(__GNUC__) || defined(__clang__)
#define WEIGHTCAST_API __attribute__((visibility("default")))
#else
#define WEIGHTCAST_API
#endif
