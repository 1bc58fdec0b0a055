// How many fields a struct has, so that one that is added and forgotten on the wire does not compile.
#pragma once

#include <cstddef>
#include <utility>

namespace weightcast::protocol {

struct AnyField {
  template <class T>
  operator T() const;  // NOLINT(google-explicit-constructor): stands for whatever the field is
};

template <class T, std::size_t... I>
constexpr bool takes(std::index_sequence<I...>) {
  return requires { T{(static_cast<void>(I), AnyField{})...}; };
}

template <class T, std::size_t N>
constexpr bool has_fields =
    takes<T>(std::make_index_sequence<N>{}) && !takes<T>(std::make_index_sequence<N + 1>{});

}  // namespace weightcast::protocol
