# Included instead of llama.cmake for a build with all CPU variants of ggml.
include("${CMAKE_CURRENT_LIST_DIR}/llama.cmake")

# Where ggml's modules find its base library: beside them. The package sees to the libraries it knows.
set(CMAKE_INSTALL_RPATH "$ORIGIN")

# A compiler may be too old for some CPU variants of ggml. Those are then built without the instructions
# that it does not know; ggml still runs them only on a CPU that has these.
include(CheckCXXCompilerFlag)
function(drop_unknown_instructions folder)
    get_property(targets DIRECTORY "${folder}" PROPERTY BUILDSYSTEM_TARGETS)
    list(FILTER targets INCLUDE REGEX "^ggml-cpu-[a-z0-9]+$")
    foreach(target IN LISTS targets)
        get_target_property(options ${target} COMPILE_OPTIONS)
        set(instructions ${options})
        list(FILTER instructions INCLUDE REGEX "^-m[a-z0-9.-]+$")
        foreach(flag IN LISTS instructions)
            string(MAKE_C_IDENTIFIER "KNOWS${flag}" known)
            check_cxx_compiler_flag("${flag}" ${known})
            if(NOT ${known})
                message(STATUS "${target} is built without ${flag}")
                list(REMOVE_ITEM options "${flag}")
            endif()
        endforeach()
        set_target_properties(${target} PROPERTIES COMPILE_OPTIONS "${options}")
    endforeach()
endfunction()
cmake_language(DEFER CALL drop_unknown_instructions "${CMAKE_CURRENT_SOURCE_DIR}/vendor/llama.cpp/ggml/src")
